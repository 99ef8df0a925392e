"""Events: what an event camera sees, (x, y, time, polarity), cut into frames that networks take.

`camera` simulates one that looks at still images. `files` and `aedat` read recordings, `layouts` finds them in a folder,
`cleaning` and `cutting` make frames of them, and `recordings` a data set of all.
"""
