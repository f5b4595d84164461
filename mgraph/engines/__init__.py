"""Where pieces of work run, several at a time: in this process, in processes beside it, or on a cluster.

Scheduling, transport and restarts are left to the executors themselves; this package only maps calls onto them. The
work knows nothing of this: it is a module-level function, with arguments that can be pickled.
"""

from mgraph.engines.pool import Pool as Pool
