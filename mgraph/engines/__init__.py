"""Where pieces of work run, several at once: in this process, in processes beside it, or on a cluster.

Scheduling, transport and restarting are those of the executors themselves; here is only the mapping onto them. What is
run knows nothing of it: a function of a module, and arguments that can be pickled.
"""

from mgraph.engines.pool import Pool as Pool
