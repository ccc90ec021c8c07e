"""The stages of the recipe: what each depends on (``stages``), how one runs (``stage_main``), how
``run.sh`` runs them all (``run_stages``) and what it says at its end (``summary``), and the digests
that tell whether a result is stale (``lineage``). Imports ``utils``, ``todm.config`` and
``todm.results`` alone."""
