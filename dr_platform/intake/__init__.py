"""What CI tells the platform: that something was merged or pushed, and so which release may be deployed.

Here: reading events, deciding whether they deploy here, keeping that as evidence, and the small server that
receives them. Not here: deploying. What is taken in becomes a run of the job ``promote``, in which the gate is
asked as for everybody else.
"""
