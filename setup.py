"""Packaging. The top-level backends, networks and scripts are links to the folders in qat (docs/design.md)."""

import re
from pathlib import Path

from setuptools import find_packages, setup

HERE = Path(__file__).parent
VERSION = re.search(r'__version__ = "(.+)"', (HERE / "qat" / "__init__.py").read_text(encoding="utf-8")).group(1)

# Lower bounds leave out releases with known holes, as far as Python 3.10 has later ones; each is named beside its bound.
TORCH = ["torch>=2.10"]  # torch.load(weights_only=True): CVE-2025-32434, CVE-2026-24747
ONNX = [
    "onnx>=1.21",  # files outside the model's folder: CVE-2024-27318, CVE-2025-51480, CVE-2026-27489, -34445 to -34447
    "onnxruntime>=1.28.3; python_version >= '3.11'",  # memory safety with hostile models, without numbers
    "onnxruntime>=1.23.2; python_version < '3.11'",  # the last one there
]
KERAS = [
    "tensorflow>=2.16",
    "keras>=3.12.3",
]  # loading models: CVE-2025-1550, CVE-2025-8747, CVE-2025-9905, CVE-2026-0897
MINDSPORE = ["mindspore>=2.6", "numpy<2"]  # its wheels are built against NumPy 1, though its metadata does not say so
TFLITE = ["ai-edge-litert>=2.0", "flatbuffers>=24.3.25"]
IMAGE = [
    "pillow>=12.3"
]  # CVE-2023-4863 (WebP), CVE-2023-50447, CVE-2024-28219, CVE-2025-48379, CVE-2026-59197 to -59200
DATA = [
    "grain>=0.2.18; python_version >= '3.11'",  # there is none for Python 3.10
    "cloudpickle>=3.0",
    "absl-py>=2.0",
]
AUGMENT = ["albumentations>=2.0.8", "opencv-python-headless>=4.9"]
STUDY = ["scikit-learn>=1.5", "scipy>=1.11", "absl-py>=2.0"]  # scikit-learn: CVE-2024-5206
PLOTS = ["matplotlib>=3.8", "jinja2>=3.1.6"]  # jinja2: CVE-2024-56201, CVE-2025-27516
SEARCH = ["optuna>=4.0"]
LIGHTNING = ["lightning>=2.5"]
MLFLOW = [
    "mlflow-skinny>=3.5",  # reached through a browser: CVE-2025-14279
    "sqlalchemy>=2.0",  # these two for the data base that it keeps runs in by default
    "alembic>=1.13",
]
WANDB = ["wandb>=0.20"]
RAY = ["ray>=2.55"]  # CVE-2025-62593 (code run through a browser), CVE-2026-41486
DOCS = ["sphinx>=8.1", "furo>=2025.7.19", "myst-parser>=4.0", "jupytext>=1.16"]
DEV = [
    *DOCS,  # a test builds the site, another the notebooks
    "setuptools>=78.1.1",  # CVE-2025-47273
    "pytest>=9.0.3",  # CVE-2025-71176
    "pytest-xdist>=3.5",
    "hypothesis>=6.100",
    "ruff>=0.6",
    "mypy>=1.11",
    "import-linter>=2.0",
    "torchvision>=0.25",  # networks that people import
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
    package_data={"qat": ["py.typed", "docs/*.md", "docs/*/*.md"], "qat.scripts": ["*.cfg"], "qat.zoo": ["files/*"]},
    install_requires=["numpy>=1.26", "safetensors>=0.4.3", "rich>=13", "pyyaml>=6"],
    extras_require={
        "torch": TORCH,
        "onnx": ONNX,
        "keras": KERAS,
        "mindspore": MINDSPORE,
        "tflite": TFLITE,
        "image": IMAGE,
        "data": DATA,
        "augment": AUGMENT,
        "study": STUDY,
        "plots": PLOTS,
        "search": SEARCH,
        "ray": RAY,
        "docs": DOCS,
        "lightning": LIGHTNING,
        "mlflow": MLFLOW,
        "wandb": WANDB,
        "dev": DEV,
        "all": [
            *(*TORCH, *KERAS, *MINDSPORE, *ONNX, *TFLITE, *IMAGE, *DATA, *AUGMENT, *STUDY, *PLOTS, *SEARCH, *RAY),
            *(*LIGHTNING, *MLFLOW, *WANDB),
        ],
    },
    entry_points={"console_scripts": ["qat = qat.cli:main"]},
    classifiers=["Programming Language :: Python :: 3", "Topic :: Scientific/Engineering :: Artificial Intelligence"],
)
