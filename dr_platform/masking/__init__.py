"""Masking: a production backup becomes data that a staging environment may hold.

``classification`` says what every column holds, ``recipe`` what a profile makes of that, ``values`` and
``text`` do it, one module per engine carries it out, ``gates`` and ``canaries`` prove the result. Not
here: where the source comes from, and who may ask for it.
"""
