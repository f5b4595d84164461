"""Jobs: every operation that computes, as a value.

A :class:`~mgraph.jobs.base.Job` is a frozen dataclass: what is to be done, with everything that decides the result. It
names nodes and connections by their ids, so it can be written down. The command line and :class:`mgraph.Graph` make
one, the row of a run keeps one (``Run.plan``), ``resume`` reads one back, and a worker process is sent one.

A job describes; the operation that it names carries it out (:mod:`mgraph.operations`). Nothing here loads torch or
looks at a graph. What is read back is a stranger's word until shown otherwise: every field must have its type, and
nothing of it runs code that nobody has trusted.

- :mod:`~mgraph.jobs.base`: what a job is, and how one is run and written.
- :mod:`~mgraph.jobs.reading`: typed fields out of JSON, and into it.
- :mod:`~mgraph.jobs.modes`, :mod:`~mgraph.jobs.connections`, :mod:`~mgraph.jobs.points`: the jobs, by what they make.
- :mod:`~mgraph.jobs.registry`: reading a job of any kind.
- :mod:`~mgraph.jobs.earlier`: plans as earlier versions wrote them.
"""
