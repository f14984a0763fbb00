import torch
def edm_denoise(net, x_t, sigma, *, sigma_data):
    scale = (sigma**2 + sigma_data**2).sqrt()
    shape = (-1,) + (1,) * (x_t.ndim - 1)
    c_in, c_skip, c_out = (c.view(shape) for c in (1 / scale, sigma_data**2 / scale**2, sigma * sigma_data / scale))
    return c_skip * x_t + c_out * net(c_in * x_t, (sigma.log() / 4).expand(x_t.shape[0])).to(x_t.dtype)
