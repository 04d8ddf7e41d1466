/* Tiles of products against plain loops; `formats/panels.py` says how panels and packed tokens lie. */
#include <math.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { TOKENS = 6, ROWS = 32, BLOCK = 320, BLOCKS = 8, COLUMNS = 32 * BLOCKS };
typedef int64_t at;
typedef void tile_function(at x, at panel, at scales, at mins, at blocks, at tile);
tile_function tile_6_32_0, tile_6_32_1, tile_6_16_0, tile_6_16_1, tile_2_32_0, tile_2_32_1, tile_2_16_0, tile_2_16_1;
void pair_columns(at panel, at stride, at n);

static int8_t weights[ROWS][COLUMNS], inputs[TOKENS][COLUMNS], panel[COLUMNS * ROWS];
static float scale[ROWS][16], low[ROWS][16], d[TOKENS][BLOCKS];
static float scales[16 * ROWS], mins[16 * ROWS], tile[TOKENS * ROWS], before[TOKENS * ROWS];
static uint8_t packed[BLOCKS * BLOCK];

static float drawn(void) { return (rand() % 2001 - 1000) / 1000.0f; }

static void pack(void)
{
    memset(packed, 0, sizeof packed);
    for (int b = 0; b < BLOCKS; b++)
        for (int t = 0; t < TOKENS; t++) {
            uint8_t *block = packed + b * BLOCK;
            int32_t *biases = (int32_t *)(block + 216), *halves = (int32_t *)(block + 256);
            memcpy(block + t * 32, &inputs[t][b * 32], 32);
            ((float *)(block + 192))[t] = d[t][b];
            for (int c = 0; c < 32; c++)
                halves[c / 16 * TOKENS + t] -= 128 * inputs[t][b * 32 + c];
            biases[t] = halves[t] + halves[TOKENS + t];
        }
    for (int c = 0; c < COLUMNS; c++)
        for (int r = 0; r < ROWS; r++)
            panel[c / 4 * ROWS * 4 + r * 4 + c % 4] = weights[r][c];
#ifdef PAIRED
    for (int half = 0; half < 2; half++)
        pair_columns((at)panel + half * 64, ROWS * 4, COLUMNS / 8);
#endif
}

static int check(tile_function *f, int tokens, int group, int has_min)
{
    int groups = COLUMNS / group;
    for (int r = 0; r < ROWS; r++) {
        for (int c = 0; c < COLUMNS; c++)
            weights[r][c] = rand() % 256 - 128;
        for (int i = 0; i < groups; i++) {
            scales[i * ROWS + r] = scale[r][i] = drawn();
            mins[i * ROWS + r] = (low[r][i] = drawn()) * (-1.0f / 128);
        }
    }
    for (int t = 0; t < TOKENS; t++) {
        for (int c = 0; c < COLUMNS; c++)
            inputs[t][c] = rand() % 255 - 127;
        for (int b = 0; b < BLOCKS; b++)
            d[t][b] = drawn();
    }
    pack();
    for (int i = 0; i < TOKENS * ROWS; i++)
        before[i] = tile[i] = drawn();
    f((at)packed, (at)panel, (at)scales, (at)mins, BLOCKS, (at)tile);
    double worst = 0;
    for (int i = 0; i < TOKENS * ROWS; i++) {
        int t = i / ROWS, r = i % ROWS;
        double wanted = before[i], size = fabs(wanted);
        for (int g = 0; g < groups && t < tokens; g++) {
            int64_t products = 0, sum = 0;
            for (int c = g * group; c < (g + 1) * group; c++) {
                products += weights[r][c] * inputs[t][c];
                sum += inputs[t][c];
            }
            double part = d[t][g * group / 32] * (scale[r][g] * (double)products + (has_min ? low[r][g] * (double)sum : 0));
            wanted += part;
            size += fabs(part);
        }
        double error = fabs(tile[i] - wanted) / size;
        worst = error > worst ? error : worst;
    }
    unsigned digest = 0;
    for (int i = 0; i < TOKENS * ROWS; i++) {
        unsigned bits;
        memcpy(&bits, &tile[i], 4);
        digest = digest * 31 + bits;
    }
    int good = worst < 3.0 * 16 / (1 << 24); /* three roundings a group, of 16 groups */
    printf("result %d tokens, groups of %d%s: error %.1e of the parts' sum, bits %08x, %s\n", tokens, group,
           has_min ? " with minima" : "", worst, digest, good ? "right" : "WRONG");
    return !good;
}

int main(void)
{
    int bad = 0;
    srand(7);
    bad |= check(tile_6_32_0, 6, 32, 0);
    bad |= check(tile_6_32_1, 6, 32, 1);
    bad |= check(tile_6_16_0, 6, 16, 0);
    bad |= check(tile_6_16_1, 6, 16, 1);
    bad |= check(tile_2_32_0, 2, 32, 0);
    bad |= check(tile_2_32_1, 2, 32, 1);
    bad |= check(tile_2_16_0, 2, 16, 0);
    bad |= check(tile_2_16_1, 2, 16, 1);
    return bad;
}
