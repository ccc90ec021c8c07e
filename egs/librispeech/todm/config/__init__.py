"""The configuration: keys with their defaults and meaning (``keys``), how confs are found and read
(``paths``, ``load``), which values can work (``check``, ``ranges``) and which keys change nothing
(``effects``). Imports ``utils`` and ``todm.subnet`` alone."""
