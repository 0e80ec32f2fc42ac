"""The reference service: stands for every service of the catalog on the local runtime and in tests.

One process per replica, told by its command line which service it is. What it does follows from the
service's roles; services without a role keep records in the databases they declare. Modules load
only what the service at hand needs, because two dozen of them share one small machine.
"""
