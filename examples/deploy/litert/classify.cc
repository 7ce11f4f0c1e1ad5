// Classify a picture with a .tflite file in LiteRT's C interface, from C++: classify FILE.tflite PICTURE.pgm
// The file takes int8 codes (1, H, W, C), pixel - 128, and gives int8 codes; its metadata say so, and how pictures are resized.
extern "C" {
#include "../c/picture.h"
}

#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <iterator>
#include <string>
#include <vector>

#include "litert/c/litert_common.h"
#include "litert/c/litert_compiled_model.h"
#include "litert/c/litert_environment.h"
#include "litert/c/litert_model.h"
#include "litert/c/litert_options.h"
#include "litert/c/litert_tensor_buffer.h"
#include "litert/c/litert_tensor_buffer_requirements.h"

static void Check(LiteRtStatus status, const char *what) {
  if (status != kLiteRtStatusOk) {
    std::fprintf(stderr, "%s: status %d\n", what, static_cast<int>(status));
    std::exit(1);
  }
}

int main(int count, char **names) {
  if (count != 3) {
    std::fprintf(stderr, "classify FILE.tflite PICTURE.pgm\n");
    return 1;
  }
  LiteRtEnvironment environment;
  LiteRtModel model;
  LiteRtOptions options;
  LiteRtCompiledModel compiled;
  Check(LiteRtCreateEnvironment(0, nullptr, &environment), "environment");
  Check(LiteRtCreateModelFromFile(environment, names[1], &model), names[1]);
  Check(LiteRtCreateOptions(&options), "options");
  Check(LiteRtSetOptionsHardwareAccelerators(options, kLiteRtHwAcceleratorCpu), "options");
  Check(LiteRtCreateCompiledModel(environment, model, options, &compiled), names[1]);

  // What the file says of itself: JSON, for a program that takes any file; here it is printed.
  const void *recipe = nullptr;
  size_t length = 0;
  if (LiteRtGetModelMetadata(model, "qat.recipe", &recipe, &length) == kLiteRtStatusOk)
    std::fprintf(stderr, "%.*s\n", static_cast<int>(length), static_cast<const char *>(recipe));

  LiteRtSignature signature;
  LiteRtTensor taken, given;
  LiteRtRankedTensorType taken_type, given_type;
  Check(LiteRtGetModelSignature(model, 0, &signature), "signature");
  Check(LiteRtGetSignatureInputTensorByIndex(signature, 0, &taken), "input");
  Check(LiteRtGetSignatureOutputTensorByIndex(signature, 0, &given), "output");
  Check(LiteRtGetRankedTensorType(taken, &taken_type), "input");
  Check(LiteRtGetRankedTensorType(given, &given_type), "output");
  if (taken_type.layout.rank != 4 || taken_type.element_type != kLiteRtElementTypeInt8 ||
      given_type.element_type != kLiteRtElementTypeInt8) {
    std::fprintf(stderr, "%s: its input is no picture of int8, or its output no int8\n", names[1]);
    return 1;
  }
  const int32_t *const sizes = taken_type.layout.dimensions;  // 1, H, W, C

  std::ifstream from(names[2], std::ios::binary);
  const std::vector<char> file((std::istreambuf_iterator<char>(from)), std::istreambuf_iterator<char>());
  int channels, height, width;
  const uint8_t *const found =
      picture_in(reinterpret_cast<const uint8_t *>(file.data()), file.size(), &channels, &height, &width);
  if (!found || channels != sizes[3]) {
    std::fprintf(stderr, "%s: is no PGM or PPM file of %d channels\n", names[2], static_cast<int>(sizes[3]));
    return 1;
  }
  std::vector<uint8_t> pixels(static_cast<size_t>(sizes[1]) * sizes[2] * sizes[3]);
  if (picture_resize(found, height, width, channels, pixels.data(), sizes[1], sizes[2])) return 1;

  LiteRtTensorBufferRequirements requirements;
  LiteRtTensorBuffer input, output;
  void *memory;
  Check(LiteRtGetCompiledModelInputBufferRequirements(compiled, 0, 0, &requirements), "input");
  Check(LiteRtCreateManagedTensorBufferFromRequirements(environment, &taken_type, requirements, &input), "input");
  Check(LiteRtGetCompiledModelOutputBufferRequirements(compiled, 0, 0, &requirements), "output");
  Check(LiteRtCreateManagedTensorBufferFromRequirements(environment, &given_type, requirements, &output), "output");

  Check(LiteRtLockTensorBuffer(input, &memory, kLiteRtTensorBufferLockModeWrite), "input");
  for (size_t i = 0; i < pixels.size(); i++) static_cast<int8_t *>(memory)[i] = static_cast<int8_t>(pixels[i] - 128);
  Check(LiteRtUnlockTensorBuffer(input), "input");
  Check(LiteRtRunCompiledModel(compiled, 0, 1, &input, 1, &output), "run");

  size_t values;
  Check(LiteRtGetTensorBufferPackedSize(output, &values), "output");
  Check(LiteRtLockTensorBuffer(output, &memory, kLiteRtTensorBufferLockModeRead), "output");
  const std::vector<int8_t> codes(static_cast<int8_t *>(memory), static_cast<int8_t *>(memory) + values);
  Check(LiteRtUnlockTensorBuffer(output), "output");
  size_t best = 0;
  for (size_t k = 1; k < codes.size(); k++)
    if (codes[k] > codes[best]) best = k;
  LiteRtQuantizationPerTensor grid;
  Check(LiteRtGetPerTensorQuantization(given, &grid), "output");
  std::printf("class %zu, %g\nvalues", best, (codes[best] - static_cast<double>(grid.zero_point)) * grid.scale);
  for (const int8_t code : codes) std::printf(" %d", code);
  std::printf("\n");
  LiteRtDestroyTensorBuffer(input);
  LiteRtDestroyTensorBuffer(output);
  LiteRtDestroyCompiledModel(compiled);
  LiteRtDestroyOptions(options);
  LiteRtDestroyModel(model);
  LiteRtDestroyEnvironment(environment);
  return 0;
}
