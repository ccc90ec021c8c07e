"""The supernet as a set of subnets: which there are, which ones the sandwich rule trains, what each
costs, what a budget allows, and how one is cut out of the trained weights. It imports
``todm.model`` and the folders before it, and knows no training."""
