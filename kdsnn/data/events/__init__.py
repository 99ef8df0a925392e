"""Events: what an event camera sees, (x, y, time, polarity), cut into frames that networks take.

`camera` simulates one that looks at still images; `streams` holds recordings and cuts them into frames.
"""
