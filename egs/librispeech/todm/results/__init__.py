"""The files that one stage writes and others read, as values: subnets, results of decoding,
records of runs, searches, and the names of an exported folder's files. Each is parsed where its
file is read and nowhere else. Imports ``utils`` and ``todm.subnet`` alone, and neither torch nor
numpy."""
