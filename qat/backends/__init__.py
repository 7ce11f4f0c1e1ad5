"""The frameworks that train: one package each, of the same shape, over what ``common`` gives.

In each, ``network`` is the module that ``qat.backend`` returns, ``ops`` the vocabulary over the framework's tensors,
``workers`` the exchange between several processes, ``files`` the framework's own files of parameters, and ``setup`` imports the
framework with the environment that it needs. A framework that needs no ``setup`` or has no such files has no such module.
"""
