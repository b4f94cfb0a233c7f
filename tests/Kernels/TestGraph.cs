using Native.Kernels;

namespace Native.Tests.Kernels;

/// <summary>A few operations as a step's graph.</summary>
internal sealed class TestGraph(Action<StepShape> enqueue) : IStepGraph
{
    public int MostTokens => 0;

    public void Enqueue(in StepShape shape) => enqueue(shape);
}
