"""The benchmark instrument behind `scripts/bench`: the same work through ftpfs and its peers.

    parameters  what one run is: link, server, peers, cases, sizes; read from a run's JSON as well
    link        a long link on one machine: a namespace behind a tun pair
    servers     a real server on this machine, on loopback or at the far end of the link
    wire        what reached the server: commands and connections
    data        the files that are worked on, and the comparison of every byte
    peers       how each peer mounts, what it costs, how it is unmounted
    trial       one peer doing one case: clock, costs, deadline
    workloads   the cases
    runner      the rounds
    report      medians, tables, JSON
    chart       the picture

Imports run from the bottom of this list to its top, `runner` to `parameters`.
"""
