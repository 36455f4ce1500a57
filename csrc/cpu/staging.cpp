#include "staging.h"

#include "move.h"

namespace torchloss {

namespace {
constexpr int64_t kStagingBytes = 64 << 10;  // bytes of a group, roughly: it stays in the L2 cache
constexpr int kMostTiles = 16;               // of a group

// f(offset of the first, stride, count, how many came before) for each run of the rows [first, first + n).
template <class F>
void runs(const Layout& rows, int64_t first, int64_t n, F f) {
  if (rows.n < 2) return f(rows.offset(first), rows.n ? rows.stride[0] : 0, n, int64_t{0});
  for (int64_t i = 0; i < n;) {
    const int64_t here = std::min(n - i, rows.size[0] - (first + i) % rows.size[0]);
    f(rows.offset(first + i), rows.stride[0], here, i);
    i += here;
  }
}
}  // namespace

int64_t staging_width(const RowArgs& a, int64_t lanes, int64_t bytes_of_class) {
  const int64_t tiles =
      std::clamp<int64_t>(kStagingBytes / std::max<int64_t>(a.classes * lanes * bytes_of_class, 1), 1, kMostTiles);
  return lanes * std::min(tiles, std::max<int64_t>((a.rows + lanes - 1) / lanes, 1));
}

template <class T>
template <bool store>
void StagingBuffer<T>::move_rows(const RowStream& s, int64_t first, int64_t n, T* to) {
  runs(s.rows, first, n, [&](int64_t at, int64_t stride, int64_t rows, int64_t before) {
    move<T, store>({element(s.data, a.dtype, at), a.dtype, rows, stride, a.classes, s.class_stride}, to + before,
                   step(s));
  });
}

template <class T>
void StagingBuffer<T>::reserve(int inputs, int outputs) {
  this->outputs = outputs;
  constexpr int64_t line = 64 / sizeof(T);
  int64_t size = line;
  for (int s = 0; s < inputs; ++s) size += a.in[s].data ? a.classes * step(a.in[s]) : 0;
  for (int s = 0; s < outputs; ++s) size += a.classes * step(a.out[s]);
  memory.reset(new T[size]);
  T* p = reinterpret_cast<T*>((reinterpret_cast<uintptr_t>(memory.get()) + 63) / 64 * 64);
  for (int s = 0; s < inputs; ++s)
    if (a.in[s].data) ins[s] = p, p += a.classes * step(a.in[s]);
  for (int s = 0; s < outputs; ++s) outs[s] = p, p += a.classes * step(a.out[s]);
  for (int s = 0; s < inputs; ++s)
    if (ins[s] && !varies(a.in[s]))
      for (int64_t l = 0; l < lanes; ++l)
        move<T, false>({a.in[s].data, a.dtype, 1, 0, a.classes, a.in[s].class_stride}, ins[s] + l, lanes);
}

template <class T>
void StagingBuffer<T>::load(int64_t first, int64_t n) {
  for (int s = 0; s < kMaxStreams; ++s)
    if (ins[s] && varies(a.in[s])) move_rows<false>(a.in[s], first, n, ins[s]);
}

template <class T>
void StagingBuffer<T>::store(int64_t first, int64_t n) {
  for (int s = 0; s < outputs; ++s) move_rows<true>(a.out[s], first, n, outs[s]);
}

template class StagingBuffer<float>;
template class StagingBuffer<double>;

}  // namespace torchloss
