"""The platform's releases: its git repository with a history, and the images made of it.

``story`` says what was committed when; ``repository`` makes a git repository of it, with the same commit ids at
every start; ``images`` makes an image of a tree, by the Dockerfile in it, with the same digest each time;
``registry`` speaks with a registry; ``shipping`` brings the releases into it. ``buildctl`` plays BuildKit's client.
"""
