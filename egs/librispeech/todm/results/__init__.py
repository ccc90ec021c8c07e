"""Files of results as typed values: subnets.json, results.json, the records of tables, and what an
exported folder holds. Each of them is parsed here and nowhere else.

Imports utils and todm.subnet alone, and no torch, so that devices and the closing words of run.sh
can read them.
"""
