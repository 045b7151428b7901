"""What a run is, in files: written so that no moment of a crash can spoil it.

`store` keeps the steps of one run, each a folder of plain tensor files that counts once
its manifest is there; `writer` saves in the background. These import no TensorFlow and
no Keras, so that reading and checking a checkpoint starts at once.
"""
