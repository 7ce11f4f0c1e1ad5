#include "picture.h"

#include <ctype.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

static int number(const uint8_t **at, const uint8_t *end)
{
    int found = 0;
    while (*at < end && (isspace(**at) || **at == '#')) {
        if (**at == '#')
            while (*at < end && **at != '\n')
                ++*at;
        else
            ++*at;
    }
    while (*at < end && isdigit(**at) && found < 100000)
        found = 10 * found + *(*at)++ - '0';
    return found;
}

const uint8_t *picture_in(const uint8_t *file, size_t size, int *channels, int *height, int *width)
{
    const uint8_t *at = file + 2, *const end = file + size;
    if (size < 8 || file[0] != 'P' || (file[1] != '5' && file[1] != '6'))
        return NULL;
    *channels = file[1] == '5' ? 1 : 3;
    *width = number(&at, end);
    *height = number(&at, end);
    if (number(&at, end) != 255 || *width < 1 || *height < 1 || *width > 10000 || *height > 10000)
        return NULL;
    at++; /* one space behind the header */
    return (size_t)(end - at) < (size_t)*width * (size_t)*height * (size_t)*channels ? NULL : at;
}

/* Between the four nearest pixels, centres of pixels aligned; ties round to even. */
static void enlarge(const uint8_t *from, int h, int w, int channels, uint8_t *to, int new_h, int new_w)
{
    for (int y = 0; y < new_h; y++) {
        const double v = fmin(fmax((y + 0.5) * h / new_h - 0.5, 0.0), h - 1.0);
        const int y0 = (int)v < h - 1 ? (int)v : (h > 1 ? h - 2 : 0), y1 = y0 + 1 < h ? y0 + 1 : h - 1;
        const float down = (float)(v - y0);
        for (int x = 0; x < new_w; x++) {
            const double u = fmin(fmax((x + 0.5) * w / new_w - 0.5, 0.0), w - 1.0);
            const int x0 = (int)u < w - 1 ? (int)u : (w > 1 ? w - 2 : 0), x1 = x0 + 1 < w ? x0 + 1 : w - 1;
            const float right = (float)(u - x0);
            for (int c = 0; c < channels; c++) {
                const float top = from[(y0 * w + x0) * channels + c], next = from[(y0 * w + x1) * channels + c];
                const float low = from[(y1 * w + x0) * channels + c], last = from[(y1 * w + x1) * channels + c];
                const float at_left = (1 - down) * top + down * low, at_right = (1 - down) * next + down * last;
                *to++ = (uint8_t)rintf((1 - right) * at_left + right * at_right);
            }
        }
    }
}

/* One axis of Pillow's resampling with a triangle: whole numbers of 22 bits behind the point, as Pillow has them.
 * The axis has "old" numbers that lie "step" apart; "count" of them lie beside one another, "row" apart. */
static int average(const uint8_t *from, int old, int step, uint8_t *to, int new, int to_step, int count, int row, int to_row)
{
    const double scale = (double)old / new, wide = scale < 1.0 ? 1.0 : scale;
    const int most = (int)ceil(wide) * 2 + 1;
    double *const real = malloc((size_t)most * sizeof *real);
    int32_t *const weight = malloc((size_t)most * sizeof *weight);
    if (real && weight)
        for (int i = 0; i < new; i++) {
            const double centre = (i + 0.5) * scale;
            const int low = (int)(centre - wide + 0.5), high = (int)(centre + wide + 0.5);
            const int first = low < 0 ? 0 : low, taps = (high > old ? old : high) - first;
            double sum = 0.0;
            for (int k = 0; k < taps; k++) {
                const double away = fabs((k + first - centre + 0.5) * (1.0 / wide));
                sum += real[k] = away < 1.0 ? 1.0 - away : 0.0;
            }
            for (int k = 0; k < taps; k++)
                weight[k] = (int32_t)(0.5 + (sum != 0.0 ? real[k] / sum : real[k]) * (1 << 22));
            for (int n = 0; n < count; n++) {
                int32_t total = 1 << 21;
                for (int k = 0; k < taps; k++)
                    total += from[n * row + (first + k) * step] * weight[k];
                to[n * to_row + i * to_step] = (uint8_t)(total >> 22 > 255 ? 255 : total >> 22);
            }
        }
    free(real);
    free(weight);
    return real && weight ? 0 : -1;
}

int picture_resize(const uint8_t *from, int height, int width, int channels, uint8_t *to, int new_height, int new_width)
{
    if (new_height >= height && new_width >= width) {
        enlarge(from, height, width, channels, to, new_height, new_width);
        return 0;
    }
    uint8_t *const narrow = malloc((size_t)height * (size_t)new_width * (size_t)channels);
    int failed = narrow ? 0 : -1;
    if (new_width == width && narrow)
        memcpy(narrow, from, (size_t)height * (size_t)width * (size_t)channels);
    for (int c = 0; c < channels && !failed && new_width != width; c++)
        failed = average(from + c, width, channels, narrow + c, new_width, channels, height, width * channels,
                         new_width * channels);
    const int row = new_width * channels;
    if (new_height == height && !failed)
        memcpy(to, narrow, (size_t)height * (size_t)row);
    else if (!failed)
        failed = average(narrow, height, row, to, new_height, row, row, 1, 1);
    free(narrow);
    return failed;
}
