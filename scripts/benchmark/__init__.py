"""The benchmark behind `scripts/bench`: the same work through ftpfs and through its peers.

    parameters  what one run is: link, server, peers, cases, sizes; also read from a run's JSON
    link        a long link on one machine: a namespace behind a tun pair
    servers     a real server on this machine, on loopback or at the far end of the link
    wire        what reached the server: commands and connections
    data        the files of the cases, and the comparison of every byte
    peers       how each peer mounts, what it costs, how it is unmounted
    trial       one peer doing one case: clock, costs, deadline
    workloads   the cases
    runner      the rounds
    report      medians, tables, JSON
    chart       the picture

Imports run from the bottom of this list to its top, `runner` to `parameters`.
"""
