// bfloat16 on AVX-512: conversions, exp, and the product of a block of rows with a panel.
#pragma once

#include <immintrin.h>

#include <cstdint>
#include <cstring>

using bf16 = uint16_t;

constexpr long PANEL = 64;  // columns of a panel: four registers of float32

inline __m512 widen(__m256i values) {
    return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(values), 16));
}

inline __m512 load16(const bf16* at) { return widen(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(at))); }

inline __m512 load16(const bf16* at, __mmask16 lanes) { return widen(_mm256_maskz_loadu_epi16(lanes, at)); }

inline float value_of(bf16 number) {
    const uint32_t bits = static_cast<uint32_t>(number) << 16;
    float value;
    std::memcpy(&value, &bits, 4);
    return value;
}

inline __m256i narrow(__m512 values) { return (__m256i)_mm512_cvtneps_pbh(values); }

inline void store16(bf16* at, __m512 values) { _mm256_storeu_si256(reinterpret_cast<__m256i*>(at), narrow(values)); }

inline void store16(bf16* at, __m512 values, __mmask16 lanes) { _mm256_mask_storeu_epi16(at, lanes, narrow(values)); }

inline __mmask16 lanes_below(long count) {
    return count >= 16 ? 0xFFFF : count <= 0 ? 0 : static_cast<__mmask16>((1u << count) - 1);
}

// Two rows of a matrix as one row of pairs: element i of `low` beside element i of `high`.
inline __m512i pair_up(__m512 low, __m512 high) {
    return _mm512_or_si512(_mm512_cvtepu16_epi32(narrow(low)),
                           _mm512_slli_epi32(_mm512_cvtepu16_epi32(narrow(high)), 16));
}

// e^x to 2e-7 of its value, 0 below -104; NaN stays NaN.
inline __m512 exponential(__m512 x) {
    const __m512 scaled = _mm512_mul_ps(_mm512_max_ps(_mm512_set1_ps(-104.0f), x), _mm512_set1_ps(1.44269504f));
    const __m512 whole = _mm512_roundscale_ps(scaled, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
    const __m512 part = _mm512_sub_ps(scaled, whole);  // 2^part: the Taylor series of e^(part ln 2)
    __m512 sum = _mm512_set1_ps(1.5403530e-4f);
    sum = _mm512_fmadd_ps(sum, part, _mm512_set1_ps(1.3333558e-3f));
    sum = _mm512_fmadd_ps(sum, part, _mm512_set1_ps(9.6181291e-3f));
    sum = _mm512_fmadd_ps(sum, part, _mm512_set1_ps(5.5504109e-2f));
    sum = _mm512_fmadd_ps(sum, part, _mm512_set1_ps(2.4022651e-1f));
    sum = _mm512_fmadd_ps(sum, part, _mm512_set1_ps(6.9314718e-1f));
    sum = _mm512_fmadd_ps(sum, part, _mm512_set1_ps(1.0f));
    return _mm512_scalef_ps(sum, whole);
}

// c[ROWS][16 COLUMNS] (+)= a[ROWS][2 pairs] b, where b is a panel: row j of it holds rows 2j and 2j+1, element by element.
template <int ROWS, int COLUMNS>
inline void product_block(const bf16* a, long a_stride, const bf16* b, long pairs, float* c, long c_stride, bool add) {
    __m512 sum[ROWS][COLUMNS];
    for (int i = 0; i < ROWS; i++)
        for (int j = 0; j < COLUMNS; j++) sum[i][j] = add ? _mm512_loadu_ps(c + i * c_stride + 16 * j) : _mm512_setzero_ps();
    for (long p = 0; p < pairs; p++) {
        __m512bh row[COLUMNS];
        for (int j = 0; j < COLUMNS; j++) row[j] = (__m512bh)_mm512_loadu_si512(b + p * 2 * 16 * COLUMNS + 32 * j);
        for (int i = 0; i < ROWS; i++) {
            int32_t two;
            std::memcpy(&two, a + i * a_stride + 2 * p, 4);
            const __m512bh both = (__m512bh)_mm512_set1_epi32(two);
            for (int j = 0; j < COLUMNS; j++) sum[i][j] = _mm512_dpbf16_ps(sum[i][j], both, row[j]);
        }
    }
    for (int i = 0; i < ROWS; i++)
        for (int j = 0; j < COLUMNS; j++) _mm512_storeu_ps(c + i * c_stride + 16 * j, sum[i][j]);
}

template <int COLUMNS>
inline void product_columns(
    long rows, const bf16* a, long a_stride, const bf16* b, long pairs, float* c, long c_stride, bool add) {
    constexpr int BLOCK = COLUMNS == 4 ? 6 : 8;  // 24 sums or fewer, so that all stay in registers
    long i = 0;
    for (; i + BLOCK <= rows; i += BLOCK)
        product_block<BLOCK, COLUMNS>(a + i * a_stride, a_stride, b, pairs, c + i * c_stride, c_stride, add);
    for (; i + 2 <= rows; i += 2)
        product_block<2, COLUMNS>(a + i * a_stride, a_stride, b, pairs, c + i * c_stride, c_stride, add);
    if (i < rows) product_block<1, COLUMNS>(a + i * a_stride, a_stride, b, pairs, c + i * c_stride, c_stride, add);
}

// c[rows][columns] (+)= a[rows][2 pairs] b for a panel b of `columns` columns, a multiple of 16 up to PANEL.
inline void product(
    long rows, long columns, const bf16* a, long a_stride, const bf16* b, long pairs, float* c, long c_stride, bool add) {
    switch (columns / 16) {
        case 1: return product_columns<1>(rows, a, a_stride, b, pairs, c, c_stride, add);
        case 2: return product_columns<2>(rows, a, a_stride, b, pairs, c, c_stride, add);
        case 3: return product_columns<3>(rows, a, a_stride, b, pairs, c, c_stride, add);
        default: return product_columns<4>(rows, a, a_stride, b, pairs, c, c_stride, add);
    }
}
