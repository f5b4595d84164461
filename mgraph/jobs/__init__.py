"""Jobs: every operation that computes, as a value.

A :class:`~mgraph.jobs.base.Job` is a frozen dataclass: what to do, with everything that determines the result. It
refers to nodes and connections by their ids, so it can be written down. The command line and :class:`mgraph.Graph` make
jobs, the row of a run stores one (``Run.plan``), ``resume`` reads one back, and a worker process receives one.

A job only describes; the operation that it names carries it out (:mod:`mgraph.operations`). Nothing here loads torch or
looks at a graph. What is read back is treated as a stranger's: every field must have its type, and nothing in it runs
code that nobody has trusted.

- :mod:`~mgraph.jobs.base`: what a job is, and how one is run and written.
- :mod:`~mgraph.jobs.reading`: typed fields from JSON, and into it.
- :mod:`~mgraph.jobs.modes`, :mod:`~mgraph.jobs.connections`, :mod:`~mgraph.jobs.points`: the jobs, by what they make.
- :mod:`~mgraph.jobs.registry`: reading a job of any kind.
- :mod:`~mgraph.jobs.earlier`: plans as earlier versions wrote them.
"""
