/* On a machine with files: classify picture.pgm [more.pgm ...] */
#include "classify.h"

#include <stdio.h>
#include <stdlib.h>

int main(int count, char **names)
{
    int failed = count < 2;
    for (int i = 1; i < count; i++) {
        FILE *const file = fopen(names[i], "rb");
        uint8_t *bytes;
        long size;
        if (!file || fseek(file, 0, SEEK_END) || (size = ftell(file)) < 0) {
            fprintf(stderr, "%s: cannot be read\n", names[i]);
            return 1;
        }
        rewind(file);
        bytes = malloc((size_t)size + 1);
        if (!bytes || fread(bytes, 1, (size_t)size, file) != (size_t)size) {
            fprintf(stderr, "%s: cannot be read\n", names[i]);
            return 1;
        }
        fclose(file);
        failed |= classify(bytes, (size_t)size);
        free(bytes);
    }
    return failed;
}
