"""A fault harness for graphs on disk: seeded work in processes that are killed, starved of space or cut from power.

- :mod:`faultkit.workload` plays random operations on a graph and says beforehand what each will change;
- :mod:`faultkit.model` is what the graph must then be: exactly as before the last operation, or as after it;
- :mod:`faultkit.crash` runs the work in a process and ends it at a random instant, or at a chosen file operation;
- :mod:`faultkit.power` drops what was not flushed; :mod:`faultkit.damage` flips bits and cuts files.

A new operation joins by one line in ``workload.OPERATIONS``.
"""
