#include "classify.h"
#include "model.h"
#include "picture.h"

#include <stdio.h>

int classify(const uint8_t *file, size_t size)
{
    static uint8_t input[MODEL_INPUTS], codes[MODEL_OUTPUTS];
    int channels, height, width, best = 0;
    const uint8_t *const pixels = picture_in(file, size, &channels, &height, &width);
    if (!pixels || channels != MODEL_CHANNELS) {
        fprintf(stderr, "the picture is no PGM or PPM of 8 bits with %d channels\n", MODEL_CHANNELS);
        return 1;
    }
    if (picture_resize(pixels, height, width, channels, input, MODEL_HEIGHT, MODEL_WIDTH)) {
        fprintf(stderr, "there is not enough memory to resize the picture\n");
        return 1;
    }

    MODEL_RUN(input, codes); /* pixels in, codes out: nothing is normalised before */

    for (int k = 1; k < MODEL_OUTPUTS; k++)
        if (codes[k] > codes[best])
            best = k;
#ifdef MODEL_NAME
    printf("class %s", MODEL_NAME(best));
#else
    printf("class %d", best);
#endif
    printf(", %g\ncodes", (double)((codes[best] - MODEL_ZERO_POINT) * MODEL_SCALE));
    for (int k = 0; k < MODEL_OUTPUTS; k++)
        printf(" %d", codes[k]);
    printf("\n");
    return 0;
}
