def save_prior(net, out, *, sigma_data, facts):
    import json
    from safetensors.torch import save_file
    save_file({k: v.half().contiguous() for k, v in net.state_dict().items()}, str(out), metadata={"invdiff": json.dumps({"config": net.config, "sigma_data": sigma_data, "facts": facts})})
