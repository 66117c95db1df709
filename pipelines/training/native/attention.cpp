// Attention over a tree of segments, and its gradients: blocks of keys against tiles of rows, without masked work.
//
// Scores are kept transposed, keys by rows: softmax then runs down the columns of a register, and what a product makes
// is, in pairs of keys, what the next one reads (FlashAttention, Dao et al. 2022, 2205.14135, section 3 and appendix B).

#include <algorithm>
#include <cmath>
#include <vector>

#include <omp.h>

#include "bfloat16.h"

namespace {

constexpr long KEYS = 64;    // keys of a block in backward
constexpr long AHEAD = 128;  // and in forward
constexpr float LOWEST = -1e30f;

struct Tensor {  // [tokens][heads][size]
    const bf16* data;
    long token, head;  // strides in elements

    const bf16* row(long t, long h) const { return data + t * token + h * head; }
};

void transpose16(__m512i r[16]) {
    __m512i t[16];
    for (int i = 0; i < 8; i++) {
        t[2 * i] = _mm512_unpacklo_epi32(r[2 * i], r[2 * i + 1]);
        t[2 * i + 1] = _mm512_unpackhi_epi32(r[2 * i], r[2 * i + 1]);
    }
    for (int i = 0; i < 4; i++) {
        r[4 * i] = _mm512_unpacklo_epi64(t[4 * i], t[4 * i + 2]);
        r[4 * i + 1] = _mm512_unpackhi_epi64(t[4 * i], t[4 * i + 2]);
        r[4 * i + 2] = _mm512_unpacklo_epi64(t[4 * i + 1], t[4 * i + 3]);
        r[4 * i + 3] = _mm512_unpackhi_epi64(t[4 * i + 1], t[4 * i + 3]);
    }
    for (int i = 0; i < 4; i++) {
        t[i] = _mm512_shuffle_i32x4(r[i], r[i + 4], 0x88);
        t[i + 4] = _mm512_shuffle_i32x4(r[i], r[i + 4], 0xdd);
        t[i + 8] = _mm512_shuffle_i32x4(r[i + 8], r[i + 12], 0x88);
        t[i + 12] = _mm512_shuffle_i32x4(r[i + 8], r[i + 12], 0xdd);
    }
    for (int i = 0; i < 4; i++) {
        r[i] = _mm512_shuffle_i32x4(t[i], t[i + 8], 0x88);
        r[i + 4] = _mm512_shuffle_i32x4(t[i + 4], t[i + 12], 0x88);
        r[i + 8] = _mm512_shuffle_i32x4(t[i], t[i + 8], 0xdd);
        r[i + 12] = _mm512_shuffle_i32x4(t[i + 4], t[i + 12], 0xdd);
    }
}

// Rows of pairs as columns: out[p][row] = pair p of the row. `rows` and `size` are multiples of 16; rows from `end` on are 0.
void pairs_as_rows(const Tensor& x, long head, long first, long end, long rows, long size, int32_t* out, long out_stride) {
    for (long r = 0; r < rows; r += 16)
        for (long p = 0; p < size / 2; p += 16) {
            const __mmask16 lanes = lanes_below(size / 2 - p);
            __m512i block[16];
            for (int i = 0; i < 16; i++)
                block[i] = first + r + i < end
                    ? _mm512_maskz_loadu_epi32(lanes, reinterpret_cast<const int32_t*>(x.row(first + r + i, head)) + p)
                    : _mm512_setzero_si512();
            transpose16(block);
            for (long i = 0; i < std::min(16L, size / 2 - p); i++) _mm512_storeu_si512(out + (p + i) * out_stride + r, block[i]);
        }
}

// Two rows after the other as one row of pairs, a panel of at most PANEL columns after the other: what products read.
void rows_in_pairs(const Tensor& x, long head, long first, long end, long rows, long size, bf16* out) {
    const std::vector<bf16> nothing(size, 0);
    for (long column = 0; column < size; column += PANEL) {
        const long width = std::min(PANEL, size - column);
        for (long r = 0; r < rows; r += 2) {
            const bf16* low = first + r < end ? x.row(first + r, head) : nothing.data();
            const bf16* high = first + r + 1 < end ? x.row(first + r + 1, head) : nothing.data();
            for (long i = 0; i < width; i += 16)
                _mm512_storeu_si512(out + column * rows + r * width + 2 * i,
                                    pair_up(load16(low + column + i), load16(high + column + i)));
        }
    }
}

// out[element][token], so that two tokens after each other are a pair; `stride` is a multiple of 64 beyond the tokens.
void tokens_last(const Tensor& x, long head, long tokens, long size, bf16* out, long stride) {
    std::vector<int32_t> pairs(16 * size);
    for (long t = 0; t < stride; t += 32) {
        for (long r = 0; r < 16; r++)
            for (long i = 0; i < size; i += 16) {
                const long at = t + 2 * r;
                const __m512 low = at < tokens ? load16(x.row(at, head) + i) : _mm512_setzero_ps();
                const __m512 high = at + 1 < tokens ? load16(x.row(at + 1, head) + i) : _mm512_setzero_ps();
                _mm512_storeu_si512(&pairs[r * size + i], pair_up(low, high));
            }
        for (long i = 0; i < size; i += 16) {
            __m512i block[16];
            for (int r = 0; r < 16; r++) block[r] = _mm512_loadu_si512(&pairs[r * size + i]);
            transpose16(block);
            for (int e = 0; e < 16; e++) _mm512_storeu_si512(out + (i + e) * stride + t, block[e]);
        }
    }
}

// Writes columns of float32 [size][PANEL], each times its factor, as rows of bfloat16.
void columns_as_rows(const float* from, long size, const float* factor, bf16* to, long to_token, long rows) {
    for (long r = 0; r < rows; r += 16)
        for (long e = 0; e < size; e += 16) {
            __m512i block[16];
            const __m512 by = _mm512_loadu_ps(factor + r);
            for (int i = 0; i < 16; i++)
                block[i] = _mm512_castps_si512(_mm512_mul_ps(_mm512_loadu_ps(from + (e + i) * PANEL + r), by));
            transpose16(block);
            for (long i = 0; i < std::min(16L, rows - r); i++)
                store16(to + (r + i) * to_token + e, _mm512_castsi512_ps(block[i]));
        }
}

struct Tree {
    long tokens, segments, window;  // window 0: none
    const long *starts, *ends;      // of each segment
    const long *first_run, *runs;   // the runs first_run[s] to first_run[s + 1] of rows (start, end) that see segment s
    const int32_t* positions;

    long tiles() const { return (tokens + PANEL - 1) / PANEL; }
};

// Which of a tile's rows see which keys of a block: nothing, everything, or a mask for each key.
struct Sight {
    __mmask16 in_run[4];
    __m512i position[4];
    long key_position, window;
    bool none, all;

    Sight(const Tree& tree, long tile, long run_start, long run_end, long key, long keys) {
        const long first = std::max(tile * PANEL, run_start), last = std::min((tile + 1) * PANEL, run_end);
        long low = INT32_MAX, high = -1;
        for (long row = first; row < last; row++) {
            low = std::min<long>(low, tree.positions[row]);
            high = std::max<long>(high, tree.positions[row]);
        }
        window = tree.window, key_position = tree.positions[key];
        none = first >= last || key_position > high || (window && low - (key_position + keys - 1) >= window);
        all = last - first == PANEL && key_position + keys - 1 <= low && !(window && high - key_position >= window);
        if (none || all) return;
        for (int j = 0; j < 4; j++) {
            const long at = tile * PANEL + 16 * j;
            in_run[j] = lanes_below(last - at) & ~lanes_below(first - at);
            position[j] = _mm512_maskz_loadu_epi32(in_run[j], tree.positions + at);
        }
    }

    __mmask16 of(long key, int j) const {
        if (all) return 0xFFFF;
        const __m512i own = _mm512_set1_epi32(key_position + key);
        __mmask16 seen = _mm512_mask_cmple_epi32_mask(in_run[j], own, position[j]);
        if (window) seen = _mm512_mask_cmplt_epi32_mask(seen, _mm512_sub_epi32(position[j], own), _mm512_set1_epi32(window));
        return seen;
    }
};

// Calls visit(first key, keys, sight) for every block of keys that rows of the tile see.
template <class Visit>
void blocks_of_tile(const Tree& tree, long tile, long block, Visit visit) {
    for (long s = 0; s < tree.segments; s++)
        for (long run = tree.first_run[s]; run < tree.first_run[s + 1]; run++) {
            const long start = tree.runs[2 * run], end = tree.runs[2 * run + 1];
            if (end <= tile * PANEL || start >= (tile + 1) * PANEL) continue;
            for (long key = tree.starts[s]; key < tree.ends[s]; key += block) {
                const long keys = std::min(block, tree.ends[s] - key);
                const Sight sight(tree, tile, start, end, key, keys);
                if (!sight.none) visit(key, keys, sight);
            }
        }
}

void forward_tile(const Tree& tree, long tile, long head, long size, const Tensor& q, const Tensor& k, long key_head,
                  const bf16* values, long stride, float scale, bf16* out, float* norms, long heads) {
    std::vector<int32_t> panel(size / 2 * PANEL);
    std::vector<float> scores(AHEAD * PANEL), sums(size * PANEL, 0.0f);
    std::vector<int32_t> weights(AHEAD / 2 * PANEL);
    __m512 most[4], total[4];
    for (int j = 0; j < 4; j++) most[j] = _mm512_set1_ps(LOWEST), total[j] = _mm512_setzero_ps();
    pairs_as_rows(q, head, tile * PANEL, tree.tokens, PANEL, size, panel.data(), PANEL);
    blocks_of_tile(tree, tile, AHEAD, [&](long key, long keys, const Sight& sight) {
        product(keys, PANEL, k.row(key, key_head), k.token, reinterpret_cast<bf16*>(panel.data()), size / 2,
                scores.data(), PANEL, false);
        const __m512 by = _mm512_set1_ps(scale), hidden = _mm512_set1_ps(-INFINITY);
        for (int j = 0; j < 4; j++) {
            __m512 top = most[j];
            for (long i = 0; i < keys; i++) {
                float* at = &scores[i * PANEL + 16 * j];
                const __m512 score = _mm512_mask_mul_ps(hidden, sight.of(i, j), _mm512_loadu_ps(at), by);
                _mm512_storeu_ps(at, score);
                top = _mm512_max_ps(top, score);  // a NaN score wins and stays
            }
            const __m512 shrink = exponential(_mm512_sub_ps(most[j], top));
            __m512 sum = _mm512_mul_ps(total[j], shrink);
            for (long i = 0; i < keys; i += 2) {
                const float* at = &scores[i * PANEL + 16 * j];
                const __m512 low = _mm512_maskz_mov_ps(sight.of(i, j), exponential(_mm512_sub_ps(_mm512_loadu_ps(at), top)));
                __m512 high = _mm512_setzero_ps();
                if (i + 1 < keys)
                    high = _mm512_maskz_mov_ps(sight.of(i + 1, j),
                                               exponential(_mm512_sub_ps(_mm512_loadu_ps(at + PANEL), top)));
                sum = _mm512_add_ps(sum, _mm512_add_ps(low, high));
                _mm512_storeu_si512(&weights[i / 2 * PANEL + 16 * j], pair_up(low, high));
            }
            if (_mm512_cmp_ps_mask(top, most[j], _CMP_NEQ_UQ))
                for (long e = 0; e < size; e++) {
                    float* at = &sums[e * PANEL + 16 * j];
                    _mm512_storeu_ps(at, _mm512_mul_ps(_mm512_loadu_ps(at), shrink));
                }
            most[j] = top, total[j] = sum;
        }
        product(size, PANEL, values + key, stride, reinterpret_cast<bf16*>(weights.data()), (keys + 1) / 2, sums.data(),
                PANEL, true);
    });
    float inverse[PANEL];
    const long rows = std::min(PANEL, tree.tokens - tile * PANEL);
    for (int j = 0; j < 4; j++) {
        _mm512_storeu_ps(inverse + 16 * j, _mm512_div_ps(_mm512_set1_ps(1.0f), total[j]));
        alignas(64) float m[16], t[16];
        _mm512_store_ps(m, most[j]), _mm512_store_ps(t, total[j]);
        for (long i = 0; i < 16 && 16 * j + i < rows; i++)
            norms[head * tree.tokens + tile * PANEL + 16 * j + i] = m[i] + std::log(t[i]);
    }
    columns_as_rows(sums.data(), size, inverse, out + (tile * PANEL * heads + head) * size, heads * size, rows);
}

}  // namespace

extern "C" {

// out [tokens][heads][size] dense, norms [heads][tokens]: the log-sum-exp of every row's scores.
// Strides are (token, head) of query, key and value; sizes a multiple of 16; heads a multiple of key_heads.
void tree_attention(const bf16* query, const bf16* key, const bf16* value, const long* strides, long heads, long key_heads,
                    long size, float scale, long tokens, long segments, long window, const long* starts, const long* ends,
                    const long* first_run, const long* runs, const int32_t* positions, bf16* out, float* norms) {
    const Tree tree{tokens, segments, window, starts, ends, first_run, runs, positions};
    const Tensor q{query, strides[0], strides[1]}, k{key, strides[2], strides[3]}, v{value, strides[4], strides[5]};
    const long stride = (tree.tiles() + 1) * PANEL, groups = heads / key_heads, tiles = tree.tiles();
    std::vector<bf16> values(key_heads * size * stride);
#pragma omp parallel
    {
#pragma omp for schedule(dynamic)
        for (long h = 0; h < key_heads; h++) tokens_last(v, h, tokens, size, &values[h * size * stride], stride);
#pragma omp for collapse(2) schedule(dynamic)
        for (long h = 0; h < heads; h++)
            for (long tile = 0; tile < tiles; tile++)  // the last tiles see most keys and go first
                forward_tile(tree, tiles - 1 - tile, h, size, q, k, h / groups, &values[h / groups * size * stride], stride,
                             scale, out, norms, heads);
    }
}

// Gradients [tokens][heads][size], dense. `out`, `gradient` and the results are dense; strides as above.
void tree_attention_backward(const bf16* query, const bf16* key, const bf16* value, const long* strides, const bf16* out,
                             const bf16* gradient, const float* norms, long heads, long key_heads, long size, float scale,
                             long tokens, long segments, long window, const long* starts, const long* ends,
                             const long* first_run, const long* runs, const int32_t* positions, bf16* to_query,
                             bf16* to_key, bf16* to_value) {
    const Tree tree{tokens, segments, window, starts, ends, first_run, runs, positions};
    const Tensor q{query, strides[0], strides[1]}, k{key, strides[2], strides[3]}, v{value, strides[4], strides[5]};
    const Tensor g{gradient, heads * size, size}, o{out, heads * size, size};
    const long tiles = tree.tiles(), padded = tiles * PANEL, stride = padded + PANEL, groups = heads / key_heads;
    constexpr long SPLITS = 2;  // every other block of keys: more even work for few heads
    std::vector<bf16> keys_last(key_heads * size * stride);
    // Of each head: queries and gradients as panels over their elements, and in pairs of rows.
    std::vector<int32_t> q_panels(heads * padded * size / 2), g_panels(heads * padded * size / 2);
    std::vector<bf16> q_pairs(heads * padded * size), g_pairs(heads * padded * size);
    std::vector<float> along(heads * padded, 0.0f), norm(heads * padded, 0.0f);
    std::vector<float> q_sums(heads * SPLITS * padded * size, 0.0f);
    std::vector<float> k_sums(heads * tokens * size, 0.0f), v_sums(heads * tokens * size, 0.0f);
#pragma omp parallel
    {
#pragma omp for schedule(dynamic) nowait
        for (long h = 0; h < key_heads; h++) tokens_last(k, h, tokens, size, &keys_last[h * size * stride], stride);
#pragma omp for collapse(2) schedule(dynamic)
        for (long h = 0; h < heads; h++)
            for (long tile = 0; tile < tiles; tile++) {
                const long first = tile * PANEL, at = (h * padded + first) * size;
                pairs_as_rows(q, h, first, tokens, PANEL, size, &q_panels[at / 2], PANEL);
                pairs_as_rows(g, h, first, tokens, PANEL, size, &g_panels[at / 2], PANEL);
                rows_in_pairs(q, h, first, tokens, PANEL, size, &q_pairs[at]);
                rows_in_pairs(g, h, first, tokens, PANEL, size, &g_pairs[at]);
                for (long t = first; t < std::min(tokens, first + PANEL); t++) {
                    __m512 sum = _mm512_setzero_ps();
                    for (long i = 0; i < size; i += 16)
                        sum = _mm512_fmadd_ps(load16(g.row(t, h) + i), load16(o.row(t, h) + i), sum);
                    along[h * padded + t] = _mm512_reduce_add_ps(sum);
                    norm[h * padded + t] = norms[h * tokens + t];
                }
            }
#pragma omp for collapse(2) schedule(dynamic)
        for (long h = 0; h < heads; h++)
            for (long split = 0; split < SPLITS; split++) {
                const long key_head = h / groups;
                alignas(64) float scores[KEYS * PANEL], slopes[KEYS * PANEL];
                alignas(64) bf16 weights[KEYS * PANEL], deltas[KEYS * PANEL];
                alignas(64) int32_t delta_pairs[KEYS / 2 * PANEL];
                float* own_q = &q_sums[(h * SPLITS + split) * padded * size];
                long number = 0;
                for (long s = 0; s < segments; s++)
                    for (long first = starts[s]; first < ends[s]; first += KEYS) {
                        if (number++ % SPLITS != split) continue;
                        const long keys = std::min(KEYS, ends[s] - first);
                        float *own_k = &k_sums[(h * tokens + first) * size], *own_v = &v_sums[(h * tokens + first) * size];
                        for (long run = first_run[s]; run < first_run[s + 1]; run++)
                            for (long tile = runs[2 * run] / PANEL; tile * PANEL < runs[2 * run + 1]; tile++) {
                                const Sight sight(tree, tile, runs[2 * run], runs[2 * run + 1], first, keys);
                                if (sight.none) continue;
                                const long at = (h * padded + tile * PANEL) * size;
                                product(keys, PANEL, k.row(first, key_head), k.token,
                                        reinterpret_cast<bf16*>(&q_panels[at / 2]), size / 2, scores, PANEL, false);
                                product(keys, PANEL, v.row(first, key_head), v.token,
                                        reinterpret_cast<bf16*>(&g_panels[at / 2]), size / 2, slopes, PANEL, false);
                                const __m512 by = _mm512_set1_ps(scale);
                                for (int j = 0; j < 4; j++) {
                                    const __m512 lse = _mm512_loadu_ps(&norm[h * padded + tile * PANEL + 16 * j]);
                                    const __m512 off = _mm512_loadu_ps(&along[h * padded + tile * PANEL + 16 * j]);
                                    for (long i = 0; i < keys; i += 2) {
                                        __m512 weight[2], delta[2];
                                        for (long n = 0; n < 2; n++) {
                                            weight[n] = delta[n] = _mm512_setzero_ps();
                                            if (i + n == keys) continue;
                                            const long place = (i + n) * PANEL + 16 * j;
                                            weight[n] = _mm512_maskz_mov_ps(
                                                sight.of(i + n, j),
                                                exponential(_mm512_fmsub_ps(_mm512_load_ps(scores + place), by, lse)));
                                            delta[n] = _mm512_mul_ps(
                                                _mm512_mul_ps(weight[n], by), _mm512_sub_ps(_mm512_load_ps(slopes + place), off));
                                            store16(weights + place, weight[n]);
                                            store16(deltas + place, delta[n]);
                                        }
                                        _mm512_store_si512(delta_pairs + i / 2 * PANEL + 16 * j, pair_up(delta[0], delta[1]));
                                    }
                                }
                                for (long column = 0; column < size; column += PANEL) {
                                    const long width = std::min(PANEL, size - column);
                                    product(keys, width, weights, PANEL, &g_pairs[at + column * PANEL], PANEL / 2,
                                            own_v + column, size, true);
                                    product(keys, width, deltas, PANEL, &q_pairs[at + column * PANEL], PANEL / 2,
                                            own_k + column, size, true);
                                }
                                product(size, PANEL, &keys_last[key_head * size * stride + first], stride,
                                        reinterpret_cast<bf16*>(delta_pairs), (keys + 1) / 2, own_q + tile * PANEL * size,
                                        PANEL, true);
                            }
                    }
            }
#pragma omp for collapse(2) schedule(static) nowait
        for (long h = 0; h < heads; h++)
            for (long tile = 0; tile < tiles; tile++) {
                float* sum = &q_sums[(h * SPLITS * padded + tile * PANEL) * size];
                const float* other = sum + padded * size;
                for (long i = 0; i < PANEL * size; i += 16)
                    _mm512_storeu_ps(sum + i, _mm512_add_ps(_mm512_loadu_ps(sum + i), _mm512_loadu_ps(other + i)));
                alignas(64) float one[PANEL];
                std::fill(one, one + PANEL, 1.0f);
                columns_as_rows(sum, size, one, to_query + (tile * PANEL * heads + h) * size, heads * size,
                                std::min(PANEL, tokens - tile * PANEL));
            }
#pragma omp for collapse(2) schedule(static)
        for (long h = 0; h < key_heads; h++)
            for (long t = 0; t < tokens; t++)
                for (long i = 0; i < size; i += 16) {
                    __m512 key_sum = _mm512_setzero_ps(), value_sum = _mm512_setzero_ps();
                    for (long n = h * groups; n < (h + 1) * groups; n++) {
                        key_sum = _mm512_add_ps(key_sum, _mm512_loadu_ps(&k_sums[(n * tokens + t) * size + i]));
                        value_sum = _mm512_add_ps(value_sum, _mm512_loadu_ps(&v_sums[(n * tokens + t) * size + i]));
                    }
                    store16(to_key + (t * key_heads + h) * size + i, key_sum);
                    store16(to_value + (t * key_heads + h) * size + i, value_sum);
                }
    }
}

}  // extern "C"
