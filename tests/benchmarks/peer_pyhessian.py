"""PyHessian at the given weights: run by bench_sharpness in the peer's own environment, `problem.pt tol`."""

import json
import sys
import time
import warnings

import torch
from pyhessian import hessian
from torch import nn

torch.set_num_threads(1)
torch.manual_seed(0)
warnings.filterwarnings("ignore")  # it keeps a graph in .grad, and torch says so at every point
problem, tol = torch.load(sys.argv[1]), float(sys.argv[2])
sizes = problem["sizes"]
layers = []
for i, (a, b) in enumerate(zip(sizes, sizes[1:], strict=False)):
    layers += [nn.Tanh()] * (i > 0) + [nn.Linear(a, b)]
model = nn.Sequential(*layers)


def square(out, y):
    return 0.5 * (out - y).square().sum() / len(y)


values, seconds, products = [], 0.0, 0
for w in problem["points"]:
    nn.utils.vector_to_parameters(w.clone(), model.parameters())
    model.zero_grad(set_to_none=True)
    start = time.process_time()
    curvature = hessian(model, square, data=(problem["x"], problem["y"]), cuda=False)
    zero_grad, calls = model.zero_grad, []  # which it calls once a product
    model.zero_grad = lambda calls=calls, zero_grad=zero_grad: (calls.append(1), zero_grad())
    values.append(curvature.eigenvalues(maxIter=5000, tol=tol)[0][0])
    seconds += time.process_time() - start
    model.zero_grad = zero_grad
    products += len(calls)
print(json.dumps({"values": values, "seconds": seconds, "products": products}))
