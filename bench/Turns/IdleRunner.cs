using Native.Kernels;
using Native.Kernels.Sampling;

namespace Native.Bench.Turns;

/// <summary>A model that computes nothing and says token 1, so that what is measured is the scheduler's.</summary>
internal sealed class IdleRunner(ModelInfo info) : IModelRunner
{
    public ModelInfo Info => info;

    public void Launch(in Batch batch)
    {
    }

    public void Collect(Span<SampledToken> sampled, Span<TokenLogprob> alternatives, Span<float> hidden = default) =>
        sampled.Fill(new SampledToken(1, 0));

    public void Dispose()
    {
    }
}
