"""The commands of ``qat``, group by group: to add one, give it a line in its group and a module of the same name in
``qat/scripts``.
"""

from __future__ import annotations

#: title of a group -> command -> what it does, in the order in which ``qat --help`` lists them. The command's module in
#: ``qat/scripts`` has its name with _ for -, unless ``MODULES`` says another.
GROUPS = {
    "train": {
        "train": "train a float network",
        "import": "take over a network of PyTorch, Keras, ONNX or TFLite",
        "import-params": "take over a framework's own parameter file",
        "export-params": "write parameters as a framework's own file",
        "prune": "remove channels and residual blocks of a float network",
        "data": "download a data set",
        "create-data": "write a data set's images as pictures with an index",
        "zoo": "networks with trained weights: list, fetch, make",
    },
    "quantize": {
        "calibrate": "post-training quantization, on training images",
        "train-quant": "quantization-aware training",
        "compress": "weights of few bits, without training or data",
        "train-gtc": "LeNet-GTC: floats and powers of two in one network",
        "train-and-quantize": "train, calibrate, write .tflite and C: all at once",
        "run-config": "the steps of a YAML file, or repeat a run",
        "demo": "the whole path: train, quantize, export, verify",
    },
    "deploy": {
        "export": "write a file for deployment, and certify it",
        "compile": "export for a target, float or quantized",
        "verify": "compare a file's codes with its checkpoint's",
        "run": "classify pictures with a checkpoint or a file",
        "bench": "time files here, count instructions on cores",
    },
    "look": {
        "eval": "how good a float checkpoint is",
        "eval-quant": "how good a quantized checkpoint's integers are",
        "evaluate": "how good any checkpoint or file is on pictures",
        "summary": "parameters, MACs, bits and bytes, layer by layer",
        "sensitivity": "what each layer costs at few bits",
        "diagnose": "where accuracy goes, layer by layer, and advice",
        "report": "an HTML page of a run, or of two side by side",
        "doctor": "what is installed and works here",
        "help": "read a page of the documentation",
        "completion": "a script that lets the shell complete commands",
    },
    "studies": {
        "train-svhn": "folds, widths, pruned or not, of the SVHN document",
        "training-diagnostics": "plot a study's accuracy over the folds",
        "compare-models": "ROC curves, weights, operations, and a report",
        "search": "channels and widths under a budget: a Pareto front",
        "search-architecture": "search for a network, Hyperband or Bayesian",
        "run-autoq": "search for the width of every layer",
    },
    "contest": {
        "train-lenet5": "train the contest's reference network",
        "test-lenet5": "the reference network's row of the table",
        "train-yournet": "train the project's own network",
        "test-yournet": "the own network's row of the table",
        "score": "the table and score against a reference",
    },
}
MODULES = {"import": "import_model"}  # import is a word of Python

#: command -> (module under qat.scripts, what it does). Modules are imported only when their command is called.
COMMANDS = {
    name: (MODULES.get(name, name.replace("-", "_")), text)
    for commands in GROUPS.values()
    for name, text in commands.items()
}


def listed() -> str:
    """All commands with a line each, below the titles of their groups."""
    lines = []
    for title, commands in GROUPS.items():
        lines += ["", f"{title}:", *(f"  {name:<21} {text}" for name, text in commands.items())]
    return "\n".join(lines[1:])
