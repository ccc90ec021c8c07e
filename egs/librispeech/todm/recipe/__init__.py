"""The stages of the recipe: what each depends on (``stages``), how one runs (``stage_main``), how
``run.sh`` runs them all (``run_stages``), and the digests that tell whether a result is stale
(``lineage``). Imports ``utils`` and ``todm.config`` alone."""
