"""Stages 7 to 9: many trainings of one conf, and the tables and pictures that compare them.

runs says which trainings there are, run_tables and launch carry them out, record_run leaves a
record of each, and table_report makes the tables from the records alone (evidence, and a file for
each table). It stands last and may import every other folder.
"""
