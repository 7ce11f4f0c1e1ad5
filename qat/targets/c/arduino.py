"""An exported C file as a library for Arduino: a folder with its sources, its properties and a sketch that runs it.

The layout is that of the Arduino library specification, revision 1.5: ``library.properties``, ``src`` and ``examples``.
"""

from __future__ import annotations

from math import prod
from pathlib import Path

from qat.deploy.recipe import RECIPE
from qat.errors import QatError
from qat.files import check_writable, write_atomically
from qat.integer.ends import REAL, FileInput, FileOutput
from qat.targets.c.file import File, load, write
from qat.targets.c.text import ctype

LIBRARY, EXAMPLE = "library.properties", ".ino"  #: the file at the top of the folder, and the ending of a sketch
AUTHOR = "author=qat export"
PROPERTIES = """\
name={name}
version=1.0.0
{author}
maintainer=qat export
sentence=A quantized neural network, {network}, as plain C.
paragraph={own}_run computes one sample. The header says how it is fed. It needs no heap and no other library.
category=Data Processing
url=https://www.arduino.cc
architectures=*
includes={name}.h
"""

SKETCH = """\
// Runs the network of {name}.h again and again, and prints what it gives and how long it takes.
#define {upper}_CLASS_NAMES
#include <{name}.h>

{buffers}

void setup() {{
  Serial.begin(115200);
  while (!Serial && millis() < 3000) {{
  }}
}}

void loop() {{
  // Put your own samples here, as the header says: of pictures raw pixels, rows from the top, as a camera gives them.
{fill}
  const unsigned long begin = micros();
  {run}({arguments});
  const unsigned long took = micros() - begin;

  Serial.print("codes");
  for (long i = 0; i < {count}; i++) {{
    Serial.print(" ");
    Serial.print({shown});
  }}
  Serial.println();
{best}  Serial.print("microseconds ");
  Serial.println(took);
  delay(1000);
}}
"""

BEST = """\
  long best = 0;
  for (long i = 1; i < {count}; i++) {{
    if ({output}[i] > {output}[best]) {{
      best = i;
    }}
  }}
  Serial.print("class ");
#ifdef {upper}_CLASSES
  Serial.println({lower}_class_names[best]);
#else
  Serial.println((int)best);
#endif
"""


def arduino_library(path: str | Path, folder: str | Path) -> list[Path]:
    """Write an exported C file as a library for Arduino.

    Args:
        path: The .c file, with its header beside it.
        folder: What to write; its files are replaced where they are there.

    Returns:
        The files.

    Raises:
        QatError: The file is none of ``export``, its weights are in a file of their own, or the folder cannot be written.
    """
    path, folder = Path(path), Path(folder)
    file, name = load(path), path.stem
    if file.weights is not None:
        raise QatError(
            f"{path}: its weights are in a file of their own, which Arduino does not build; export it without --weights_file"
        )
    source, header, properties, example = library_files(path, folder)
    network = file.source[3:].partition(",")[0]
    contents = {
        properties: PROPERTIES.format(author=AUTHOR, name=name, own=file.model["name"], network=network),
        example: sketch(file, name),
    }
    for each in (source, *contents):
        check_writable(each)
    write(source, file.source, file.header, file.metadata)
    for each, text in contents.items():
        write_atomically(each, text.encode())
    return [source, header, *contents]


def library_files(path: str | Path, folder: str | Path) -> list[Path]:
    """What ``arduino_library`` writes: the source, its header, the properties and the example."""
    name, folder = Path(path).stem, Path(folder)
    source = folder / "src" / f"{name}.c"
    return [source, source.with_suffix(".h"), folder / LIBRARY, folder / "examples" / name / f"{name}{EXAMPLE}"]


def wrote(path: Path) -> bool:
    """Whether a properties file or an example is what ``arduino_library`` wrote: an example that was changed since is not.

    Args:
        path: Of the file, in its library's folder.
    """
    if path.name == LIBRARY:
        return AUTHOR in path.read_text(encoding="utf-8", errors="replace").splitlines()
    name = path.stem
    try:
        return path.read_bytes() == sketch(load(path.parents[2] / "src" / f"{name}.c"), name).encode()
    except QatError:
        return False


def sketch(file: File, name: str) -> str:
    """The example: inputs that a counter fills, one inference, its first output.

    Args:
        file: The exported file.
        name: Of its header.
    """
    own = file.model["name"]
    inputs = [f"input{i}" for i in range(len(file.ends.inputs))]
    outputs = [f"output{i}" for i in range(len(file.ends.outputs))]
    ends: dict[str, FileInput | FileOutput] = dict(zip(inputs, file.ends.inputs, strict=True))
    ends |= dict(zip(outputs, file.ends.outputs, strict=True))
    fill = [
        f"  for (long i = 0; i < {prod(end.shape)}; i++) {{\n    {each}[i] = ({ctype(end.stored)})(i % 256);\n  }}"
        for each, end in zip(inputs, file.ends.inputs, strict=True)
    ]
    first, upper = file.ends.outputs[0], own.upper()
    count = prod(first.shape)
    classifies = len(first.shape) == 1 and RECIPE in file.metadata
    return SKETCH.format(
        name=name,
        upper=upper,
        buffers="\n".join(f"static {ctype(end.stored)} {each}[{prod(end.shape)}];" for each, end in ends.items()),
        fill="\n".join(fill),
        run=f"{own}_run",
        arguments=", ".join([*inputs, *outputs]),
        count=count,
        shown=f"{outputs[0]}[i], 6" if first.stored == REAL else f"(int){outputs[0]}[i]",
        best=BEST.format(count=count, output=outputs[0], upper=upper, lower=own) if classifies else "",
    )
