"""What a network does besides computing, found out in a few passes over a few examples when it is first met.

:mod:`untouched` restores a network and all random states to what they were, :mod:`traces` finds the module responsible
for a difference, :mod:`habits` finds what the rest of mgraph must respect (copies of the input, frozen statistics,
equal batches), :mod:`state` what differs between two builds of one network, :mod:`losses` what a loss does with outputs
and targets, and :mod:`probe` combines them and says what cannot be handled. Nothing here knows data sets or graphs.
"""
