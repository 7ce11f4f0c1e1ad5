/* Classify a picture with an .onnx file in ONNX Runtime's C interface: classify FILE.onnx PICTURE.pgm
 * The file takes uint8 pixels (1, C, H, W) and gives real numbers; its metadata say so, and how pictures are resized. */
#include "../c/picture.h"

#include <onnxruntime_c_api.h>
#include <stdio.h>
#include <stdlib.h>

static const OrtApi *ort;

static void check(OrtStatus *status)
{
    if (status) {
        fprintf(stderr, "%s\n", ort->GetErrorMessage(status));
        exit(1);
    }
}

int main(int count, char **names)
{
    static uint8_t file[1 << 24], planes[1 << 24], pixels[1 << 24];
    OrtEnv *env;
    OrtSessionOptions *options;
    OrtSession *session;
    OrtAllocator *allocator;
    OrtModelMetadata *metadata;
    OrtTypeInfo *type;
    const OrtTensorTypeAndShapeInfo *tensor;
    OrtMemoryInfo *memory;
    OrtValue *input, *output = NULL;
    OrtTensorTypeAndShapeInfo *shape;
    char *input_name, *output_name, *recipe = NULL;
    const char *taken, *given;
    int64_t sizes[4];
    size_t axes, values, best = 0;
    float *real;
    int channels, height, width;
    FILE *from;

    if (count != 3) {
        fprintf(stderr, "classify FILE.onnx PICTURE.pgm\n");
        return 1;
    }
    ort = OrtGetApiBase()->GetApi(ORT_API_VERSION);
    if (!ort) {
        fprintf(stderr, "ONNX Runtime %s is older than its header\n", OrtGetApiBase()->GetVersionString());
        return 1;
    }
    check(ort->CreateEnv(ORT_LOGGING_LEVEL_WARNING, "classify", &env));
    check(ort->CreateSessionOptions(&options));
    check(ort->CreateSession(env, names[1], options, &session));
    check(ort->GetAllocatorWithDefaultOptions(&allocator));

    /* What the file says of itself: JSON, for a program that takes any file; here it is printed. */
    check(ort->SessionGetModelMetadata(session, &metadata));
    check(ort->ModelMetadataLookupCustomMetadataMap(metadata, allocator, "qat.recipe", &recipe));
    if (recipe)
        fprintf(stderr, "%s\n", recipe);
    check(ort->SessionGetInputName(session, 0, allocator, &input_name));
    check(ort->SessionGetOutputName(session, 0, allocator, &output_name));
    taken = input_name;
    given = output_name;
    check(ort->SessionGetInputTypeInfo(session, 0, &type));
    check(ort->CastTypeInfoToTensorInfo(type, &tensor));
    check(ort->GetDimensionsCount(tensor, &axes));
    if (axes != 4) {
        fprintf(stderr, "%s takes no pictures\n", names[1]);
        return 1;
    }
    check(ort->GetDimensions(tensor, sizes, 4));
    sizes[0] = 1; /* the number of pictures is free */
    const int rows = (int)sizes[2], columns = (int)sizes[3];

    from = fopen(names[2], "rb");
    const uint8_t *const found =
        from ? picture_in(file, fread(file, 1, sizeof file, from), &channels, &height, &width) : NULL;
    if (!found || channels != sizes[1]) {
        fprintf(stderr, "%s: is no PGM or PPM file of %d channels\n", names[2], (int)sizes[1]);
        return 1;
    }
    if ((size_t)rows * (size_t)columns * (size_t)channels > sizeof pixels ||
        picture_resize(found, height, width, channels, pixels, rows, columns))
        return 1;
    for (int i = 0; i < rows * columns; i++) /* channels first */
        for (int c = 0; c < channels; c++)
            planes[c * rows * columns + i] = pixels[i * channels + c];

    const size_t bytes = (size_t)rows * (size_t)columns * (size_t)channels;
    check(ort->CreateCpuMemoryInfo(OrtArenaAllocator, OrtMemTypeDefault, &memory));
    check(ort->CreateTensorWithDataAsOrtValue(memory, planes, bytes, sizes, 4, ONNX_TENSOR_ELEMENT_DATA_TYPE_UINT8, &input));
    check(ort->Run(session, NULL, &taken, (const OrtValue *const *)&input, 1, &given, 1, &output));
    check(ort->GetTensorMutableData(output, (void **)&real));
    check(ort->GetTensorTypeAndShape(output, &shape));
    check(ort->GetTensorShapeElementCount(shape, &values));
    for (size_t k = 1; k < values; k++)
        if (real[k] > real[best])
            best = k;
    printf("class %zu, %g\nvalues", best, (double)real[best]);
    for (size_t k = 0; k < values; k++)
        printf(" %.9g", (double)real[k]);
    printf("\n");
    return 0;
}
