"""The benchmark of the recipe, ``python -m todm.benchmark``: training, optimiser, data loading and
exported encoders, of this checkout alone or beside another revision of the repository.

``workloads`` lists what is measured. ``__main__`` (with the command line in ``options``) and
``runner`` start worker processes (``processes``, and ``revisions`` for the code that they run), ask
them in turns (``rounds``) and write the figures (``report``); ``estimate`` is for the time left.
All of these do without torch. ``worker`` runs in a worker process, with the code of either
revision, which it finds through ``adapter`` alone; ``training``, ``export`` and ``exported`` are
what it measures, with the clocks and the memory of ``clock`` and by the ``settings`` that it is
given. Nothing imports this folder.
"""
