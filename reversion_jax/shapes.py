"""The letters that name array axes, and the conventions every file keeps.

    R  runs: independent inversions trained by one program
    M  micro-batches, whose gradients are accumulated into one optimiser step
    N  samples of a (micro-)batch, or images
    P  trainable rows of a run: those of <R>, then those of <R-inv>
    S  rows of one placeholder token
    L  token positions of a prompt
    V  tokens of the frozen vocabulary
    D  width of a token embedding
    H, W, C  height, width, channels
    T  diffusion timesteps

Images are NHWC float32 in [-1, 1]. Latents are NHWC and already multiplied by the VAE's scaling factor, so no
other file knows that factor. Token ids >= V are placeholders: id V + p is row p of the run.
"""
