"""The benchmark of the recipe, ``python -m todm.benchmark``: training, optimiser, data loading and
exported encoders, of this checkout alone or beside another revision of the repository.

``workloads`` lists what is measured. ``__main__`` starts worker processes (``processes``, and
``revisions`` for the code that they run), asks them in turns (``rounds``) and writes the figures
(``report``); it imports no torch. ``worker`` runs in a worker process, with the code of either
revision, which it finds through ``adapter`` alone; ``training``, ``export`` and ``exported`` are
what it measures, with the clocks and the memory of ``clock``. Nothing imports this folder.
"""
