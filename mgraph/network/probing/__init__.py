"""What a network does besides computing: found out in a few passes over a few examples, when it is first met.

:mod:`untouched` puts a network and all random states back as they were, :mod:`traces` finds the module that is to blame
for a difference, :mod:`habits` finds what the machinery must respect (copies of the input, frozen statistics, equal
batches), :mod:`state` what differs between two builds of one network, :mod:`losses` what a loss does with outputs and
targets, and :mod:`probe` puts it all together and says what cannot be handled. Nothing here knows data sets or graphs.
"""
