// A Llama-family transformer in double precision, as plain as can be: what runners of TinyModels are held to.
#pragma once

#include <cmath>
#include <string>
#include <vector>

#include "tests/model/tiny_model.h"
#include "tiercel/types.h"

namespace tiercel {

using Row = std::vector<double>;

inline Row multiply(const Matrix& matrix, const Row& x) {
  Row y(matrix.size() / x.size(), 0.0);
  for (std::size_t o = 0; o < y.size(); ++o) {
    for (std::size_t c = 0; c < x.size(); ++c) y[o] += matrix[o * x.size() + c] * x[c];
  }
  return y;
}

inline Row normalise(const Row& x, const Matrix& weight) {
  double squares = 0;
  for (const double value : x) squares += value * value;
  Row y(x.size());
  for (std::size_t i = 0; i < x.size(); ++i)
    y[i] = x[i] / std::sqrt(squares / static_cast<double>(x.size()) + 1e-5) * weight[i];
  return y;
}

// Logits of the last token.
inline Row reference_logits(const TinyModel& m, const std::vector<TokenId>& ids) {
  const Variant& v = m.variant;
  const auto tensor = [&](const std::string& name) -> const Matrix& { return m.tensors.at(name); };
  const auto rotate = [&](Row& heads, std::size_t position) {
    for (std::size_t h = 0; h < heads.size(); h += v.head_dim) {
      for (std::size_t i = 0; i < v.rotated / 2; ++i) {
        double frequency = std::pow(v.rope_base, -2.0 * static_cast<double>(i) / v.rotated) / v.linear_factor;
        if (v.rope_divisors) frequency /= tensor("rope_freqs.weight")[i];
        const double angle = static_cast<double>(position) * frequency, a = heads[h + 2 * i], b = heads[h + 2 * i + 1];
        heads[h + 2 * i] = a * std::cos(angle) - b * std::sin(angle);
        heads[h + 2 * i + 1] = a * std::sin(angle) + b * std::cos(angle);
      }
    }
  };
  std::vector<std::vector<Row>> keys(v.layers), values(v.layers);
  Row logits;
  for (std::size_t t = 0; t < ids.size(); ++t) {
    const auto first = tensor("token_embd.weight").begin() + ids[t] * static_cast<std::ptrdiff_t>(v.hidden());
    Row x(first, first + v.hidden());
    for (std::uint32_t layer = 0; layer < v.layers; ++layer) {
      const std::string p = "blk." + std::to_string(layer) + ".";
      Row h = normalise(x, tensor(p + "attn_norm.weight"));
      Row q = multiply(tensor(p + "attn_q.weight"), h), k = multiply(tensor(p + "attn_k.weight"), h);
      rotate(q, t);
      rotate(k, t);
      keys[layer].push_back(k);
      values[layer].push_back(multiply(tensor(p + "attn_v.weight"), h));
      Row mixed(q.size(), 0.0);
      for (std::size_t head = 0; head < v.heads; ++head) {
        const std::size_t from = head / (v.heads / v.kv_heads) * v.head_dim;
        Row weights(t + 1);
        double total = 0;
        for (std::size_t s = 0; s <= t; ++s) {
          double score = 0;
          for (std::size_t i = 0; i < v.head_dim; ++i) score += q[head * v.head_dim + i] * keys[layer][s][from + i];
          total += weights[s] = std::exp(score / std::sqrt(v.head_dim));
        }
        for (std::size_t s = 0; s <= t; ++s) {
          for (std::size_t i = 0; i < v.head_dim; ++i)
            mixed[head * v.head_dim + i] += weights[s] / total * values[layer][s][from + i];
        }
      }
      const Row attention = multiply(tensor(p + "attn_output.weight"), mixed);
      for (std::size_t i = 0; i < x.size(); ++i) x[i] += attention[i];
      h = normalise(x, tensor(p + "ffn_norm.weight"));
      Row gate = multiply(tensor(p + "ffn_gate.weight"), h);
      const Row up = multiply(tensor(p + "ffn_up.weight"), h);
      for (std::size_t i = 0; i < gate.size(); ++i) gate[i] *= up[i] / (1 + std::exp(-gate[i]));
      const Row down = multiply(tensor(p + "ffn_down.weight"), gate);
      for (std::size_t i = 0; i < x.size(); ++i) x[i] += down[i];
    }
    if (t + 1 == ids.size())
      logits = multiply(tensor(v.own_head ? "output.weight" : "token_embd.weight"),
                        normalise(x, tensor("output_norm.weight")));
  }
  return logits;
}

}  // namespace tiercel
