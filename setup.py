"""Packaging. The folders backends, networks and scripts are packages of qat through symlinks (docs/design.md)."""

import re
from pathlib import Path

from setuptools import find_packages, setup

HERE = Path(__file__).parent
VERSION = re.search(r'__version__ = "(.+)"', (HERE / "qat" / "__init__.py").read_text(encoding="utf-8")).group(1)

TORCH = ["torch>=2.4"]
ONNX = ["onnx>=1.16", "onnxruntime>=1.18"]
KERAS = ["tensorflow>=2.16", "keras>=3.4"]
MINDSPORE = ["mindspore>=2.6", "numpy<2"]  # its wheels are built against NumPy 1, though its metadata does not say so
TFLITE = ["ai-edge-litert>=2.0", "flatbuffers>=24.3.25"]
IMAGE = ["pillow>=10"]
STUDY = ["scikit-learn>=1.4", "scipy>=1.11", "absl-py>=2.0"]
PLOTS = ["matplotlib>=3.8", "jinja2>=3.1"]
SEARCH = ["optuna>=4.0"]
RAY = ["ray>=2.30"]
DEV = [
    "setuptools>=70.1",
    "pytest>=8",
    "pytest-xdist>=3.5",
    "hypothesis>=6.100",
    "ruff>=0.6",
    "mypy>=1.11",
    "import-linter>=2.0",
]

setup(
    name="qat-engine",
    version=VERSION,
    description="Quantization-aware training whose integers are the integers of deployment",
    long_description=(HERE / "README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    python_requires=">=3.10",
    packages=find_packages(include=["qat", "qat.*"]),
    package_dir={"": "."},
    package_data={"qat.scripts": ["*.cfg"]},
    install_requires=["numpy>=1.26", "safetensors>=0.4.3", "rich>=13", "pyyaml>=6"],
    extras_require={
        "torch": TORCH,
        "onnx": ONNX,
        "keras": KERAS,
        "mindspore": MINDSPORE,
        "tflite": TFLITE,
        "image": IMAGE,
        "study": STUDY,
        "plots": PLOTS,
        "search": SEARCH,
        "ray": RAY,
        "dev": DEV,
        "all": [*TORCH, *KERAS, *MINDSPORE, *ONNX, *TFLITE, *IMAGE, *STUDY, *PLOTS, *SEARCH, *RAY],
    },
    entry_points={"console_scripts": ["qat = qat.cli:main"]},
    classifiers=["Programming Language :: Python :: 3", "Topic :: Scientific/Engineering :: Artificial Intelligence"],
)
