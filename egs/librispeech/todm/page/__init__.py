"""The report page of an experiment: one HTML file with pictures, errors and audio inside.

It reads what stages 4 to 6 and 10 have left in the experiment's folder, and changes nothing there
but report.html. It may import configurations, results, data and the scores of learned selection;
it needs neither a model nor a recogniser. Stages 9 and 10 write it.
"""
