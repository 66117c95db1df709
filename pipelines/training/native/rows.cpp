// Norms, gated activations, rotary positions and token log-probabilities over rows of bfloat16, computed in float32.

#include <cmath>
#include <vector>

#include <omp.h>

#include "bfloat16.h"

extern "C" {

// out = bf16(x / rms(x)) * weight for every row; scales[row] = 1 / rms.
void rms_norm(const bf16* x, const bf16* weight, bf16* out, float* scales, long rows, long size, float epsilon) {
#pragma omp parallel for schedule(static) if (rows > 8)
    for (long row = 0; row < rows; row++) {
        const bf16* from = x + row * size;
        bf16* to = out + row * size;
        __m512 squares = _mm512_setzero_ps();
        for (long i = 0; i < size; i += 16) {
            const __m512 value = load16(from + i, lanes_below(size - i));
            squares = _mm512_fmadd_ps(value, value, squares);
        }
        const float scale = 1.0f / __builtin_sqrtf(_mm512_reduce_add_ps(squares) / size + epsilon);
        scales[row] = scale;
        const __m512 by = _mm512_set1_ps(scale);
        for (long i = 0; i < size; i += 16) {
            const __mmask16 lanes = lanes_below(size - i);
            const __m512 normed = widen(narrow(_mm512_mul_ps(load16(from + i, lanes), by)));
            store16(to + i, _mm512_mul_ps(normed, load16(weight + i, lanes)), lanes);
        }
    }
}

// d/dx of the above; where `weight_gradient` (float32, zeros) is given, it receives d/dweight.
void rms_norm_backward(const bf16* x, const bf16* weight, const float* scales, const bf16* gradient, bf16* out,
                       float* weight_gradient, long rows, long size) {
#pragma omp parallel if (rows > 8)
    {
        std::vector<float> own(weight_gradient ? size + 16 : 0);
#pragma omp for schedule(static)
        for (long row = 0; row < rows; row++) {
            const bf16 *from = x + row * size, *upstream = gradient + row * size;
            const __m512 scale = _mm512_set1_ps(scales[row]);
            __m512 along = _mm512_setzero_ps();
            for (long i = 0; i < size; i += 16) {
                const __mmask16 lanes = lanes_below(size - i);
                const __m512 normed = _mm512_mul_ps(load16(from + i, lanes), scale);
                const __m512 product = _mm512_mul_ps(load16(upstream + i, lanes), normed);
                if (weight_gradient) _mm512_storeu_ps(&own[i], _mm512_add_ps(_mm512_loadu_ps(&own[i]), product));
                along = _mm512_fmadd_ps(product, load16(weight + i, lanes), along);
            }
            const __m512 mean = _mm512_set1_ps(_mm512_reduce_add_ps(along) / size);
            for (long i = 0; i < size; i += 16) {
                const __mmask16 lanes = lanes_below(size - i);
                const __m512 normed = _mm512_mul_ps(load16(from + i, lanes), scale);
                const __m512 direct = _mm512_mul_ps(load16(upstream + i, lanes), load16(weight + i, lanes));
                store16(out + row * size + i, _mm512_mul_ps(_mm512_fnmadd_ps(normed, mean, direct), scale), lanes);
            }
        }
        if (weight_gradient) {
#pragma omp critical
            for (long i = 0; i < size; i++) weight_gradient[i] += own[i];
        }
    }
}

// out = silu(gate) * up.
void gated(const bf16* gate, const bf16* up, bf16* out, long count) {
#pragma omp parallel for schedule(static) if (count > 16384)
    for (long i = 0; i < count; i += 16) {
        const __mmask16 lanes = lanes_below(count - i);
        const __m512 g = load16(gate + i, lanes);
        const __m512 down = _mm512_add_ps(_mm512_set1_ps(1.0f), exponential(_mm512_sub_ps(_mm512_setzero_ps(), g)));
        store16(out + i, _mm512_mul_ps(_mm512_div_ps(g, down), load16(up + i, lanes)), lanes);
    }
}

// d/dgate and d/dup of the above.
void gated_backward(const bf16* gate, const bf16* up, const bf16* gradient, bf16* to_gate, bf16* to_up, long count) {
    const __m512 one = _mm512_set1_ps(1.0f);
#pragma omp parallel for schedule(static) if (count > 16384)
    for (long i = 0; i < count; i += 16) {
        const __mmask16 lanes = lanes_below(count - i);
        const __m512 g = load16(gate + i, lanes), upstream = load16(gradient + i, lanes);
        const __m512 sigmoid = _mm512_div_ps(one, _mm512_add_ps(one, exponential(_mm512_sub_ps(_mm512_setzero_ps(), g))));
        const __m512 activated = _mm512_mul_ps(g, sigmoid);
        const __m512 slope = _mm512_fmadd_ps(activated, _mm512_sub_ps(one, sigmoid), sigmoid);
        store16(to_up + i, _mm512_mul_ps(upstream, activated), lanes);
        store16(to_gate + i, _mm512_mul_ps(_mm512_mul_ps(upstream, load16(up + i, lanes)), slope), lanes);
    }
}

// Rotary positions of [tokens][heads][size] (size a multiple of 32) by cos and sin [tokens][size]; sign -1 turns back.
// Tokens of x are `x_token` elements apart and its heads `x_head`; out is dense.
void rotate(const bf16* x, long x_token, long x_head, const bf16* cos, const bf16* sin, bf16* out, long tokens,
            long heads, long size, float sign) {
    const long half = size / 2;
    const __m512 turn = _mm512_set1_ps(sign);
#pragma omp parallel for schedule(static) if (tokens > 8)
    for (long token = 0; token < tokens; token++) {
        const bf16 *c = cos + token * size, *s = sin + token * size;
        for (long head = 0; head < heads; head++) {
            const bf16* from = x + token * x_token + head * x_head;
            bf16* to = out + (token * heads + head) * size;
            for (long i = 0; i < half; i += 16) {
                // turned back, the halves' sines change places: the transpose of the rotation
                const __m512 first = load16(from + i), second = load16(from + half + i);
                const __m512 one = load16(sign < 0 ? s + half + i : s + i), two = load16(sign < 0 ? s + i : s + half + i);
                const __m512 low = _mm512_mul_ps(_mm512_mul_ps(second, one), turn);
                const __m512 high = _mm512_mul_ps(_mm512_mul_ps(first, two), turn);
                store16(to + i, _mm512_fmsub_ps(first, load16(c + i), low));
                store16(to + half + i, _mm512_fmadd_ps(second, load16(c + half + i), high));
            }
        }
    }
}

// Of every row of logits: log softmax at its target, the softmax's entropy, and the log-sum-exp.
void token_logprobs(const bf16* logits, const int64_t* targets, float* logps, float* entropies, float* norms, long rows,
                    long vocabulary) {
#pragma omp parallel for schedule(static)
    for (long row = 0; row < rows; row++) {
        const bf16* from = logits + row * vocabulary;
        __m512 most = _mm512_set1_ps(-INFINITY);
        for (long i = 0; i < vocabulary; i += 16) {
            const __mmask16 lanes = lanes_below(vocabulary - i);
            most = _mm512_mask_max_ps(most, lanes, most, load16(from + i, lanes));
        }
        const float top = _mm512_reduce_max_ps(most);
        __m512 sum = _mm512_setzero_ps(), weighed = _mm512_setzero_ps();
        for (long i = 0; i < vocabulary; i += 16) {
            const __mmask16 lanes = lanes_below(vocabulary - i);
            const __m512 value = _mm512_sub_ps(load16(from + i, lanes), _mm512_set1_ps(top));
            const __m512 weight = _mm512_maskz_mov_ps(lanes, exponential(value));
            sum = _mm512_add_ps(sum, weight);
            weighed = _mm512_mask3_fmadd_ps(weight, value, weighed, _mm512_cmp_ps_mask(weight, _mm512_setzero_ps(), _CMP_NEQ_UQ));
        }
        const float total = _mm512_reduce_add_ps(sum), log_total = std::log(total);
        logps[row] = value_of(from[targets[row]]) - top - log_total;
        entropies[row] = log_total - _mm512_reduce_add_ps(weighed) / total;
        norms[row] = top + log_total;
    }
}

// The gradient of the log-probabilities, written over the logits.
void token_logprobs_backward(bf16* logits, const int64_t* targets, const float* norms, const float* gradients, long rows,
                             long vocabulary) {
#pragma omp parallel for schedule(static)
    for (long row = 0; row < rows; row++) {
        bf16* at = logits + row * vocabulary;
        const __m512 norm = _mm512_set1_ps(norms[row]), by = _mm512_set1_ps(-gradients[row]);
        const float target = gradients[row] * (1.0f - std::exp(value_of(at[targets[row]]) - norms[row]));
        for (long i = 0; i < vocabulary; i += 16) {
            const __mmask16 lanes = lanes_below(vocabulary - i);
            store16(at + i, _mm512_mul_ps(exponential(_mm512_sub_ps(load16(at + i, lanes), norm)), by), lanes);
        }
        store16(at + targets[row], _mm512_set1_ps(target), 1);
    }
}

}  // extern "C"
