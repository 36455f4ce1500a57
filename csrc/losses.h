#pragma once
// The table of contents of the book: every loss, by family. To add one, write its header and name it here.
#include "losses/binary_cross_entropy.h"
#include "losses/binary_cross_entropy_with_logits.h"
#include "losses/cross_entropy.h"
#include "losses/entropy.h"
#include "losses/huber.h"
#include "losses/kl_div.h"
#include "losses/kl_div_with_logits.h"
#include "losses/l1.h"
#include "losses/logit_stats.h"
#include "losses/mse.h"
#include "losses/nll.h"
#include "losses/smooth_l1.h"
#include "losses/softmax.h"

namespace torchloss {

template <template <class> class... L>
struct List {};

using Pointwise =
    List<L1, MSE, Huber, SmoothL1, KLDiv, KLDivLogTarget, BinaryCrossEntropy, BinaryCrossEntropyWithLogits>;

template <class... L>
struct RowList {};

using RowMaps = RowList<SoftmaxMap, LogSoftmaxMap>;
using RowLosses = RowList<CrossEntropy, CrossEntropyProbs, NLL, Entropy, SoftmaxEntropy, KLDivWithLogits, LogitStats>;

}  // namespace torchloss
