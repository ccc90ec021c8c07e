"""Stage 5: the choice of the subnets that are decoded and deployed.

A search draws candidates (budgeted_space, evolution), scores them on dev with the trained supernet
(candidate_scores) and keeps the best within every budget (subnet_search); a latency that bounds it
is measured in torch or in the client. It may import everything that trains, decodes and exports a
model; of the recipe only the tables come after it.
"""
