"""Graphs of posts: extraction in bulk, the graph's tables and other forms.

Nothing is imported here; `examples/extract.py` and `examples/graph_report.py` show what to call.
"""
