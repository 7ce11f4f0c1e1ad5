/* Pictures as a network takes them: read from a PGM or PPM file in memory, and resized as "qat run" resizes them. */
#ifndef PICTURE_H
#define PICTURE_H

#include <stddef.h>
#include <stdint.h>

/* The pixels of a binary PGM (P5) or PPM (P6) file of 8 bits, rows from the top, the channels of a pixel beside one another.
 * Returns where they begin in the file, and sets the sizes; NULL where the file is none. */
const uint8_t *picture_in(const uint8_t *file, size_t size, int *channels, int *height, int *width);

/* Resizes pixels, whatever the proportions ("stretch" and "linear" of the file's recipe): where the picture gets no smaller,
 * between the four nearest pixels (OpenCV's INTER_LINEAR), where sums may differ in float32's last bit and so round a tie
 * otherwise (28 x 28 to 32 x 32 has none such); else as the mean over all of them (Pillow's BILINEAR), of which versions of
 * Pillow differ in which axis is first: pixels are at most 1 away from theirs.
 * Returns 0; -1 where there is no memory. */
int picture_resize(const uint8_t *from, int height, int width, int channels, uint8_t *to, int new_height, int new_width);

#endif
