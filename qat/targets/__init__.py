"""The file formats that networks are deployed as, a folder for each.

In a folder, ``target.py`` has the functions of ``qat.deploy.interfaces.Target``, ``file.py`` reads, checks and writes a file,
``writer.py`` gathers what is in it, ``integer.py`` has a method for each kind of integer node, ``float.py`` the vocabulary of
float networks where the format holds them, and ``run.py`` the runtime. What the targets share is in common.py and
float_graph.py.
"""
