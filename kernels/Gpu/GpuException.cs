namespace Native.Kernels.Gpu;

/// <summary>A device can't do what was asked: what, why, and what to do about it.</summary>
public abstract class GpuException : NotSupportedException
{
    private protected GpuException(string message) : base(message)
    {
    }

    private protected GpuException(string message, Exception inner) : base(message, inner)
    {
    }

    /// <summary>Whether there is no GPU at all, or no driver that would know of one: nothing that anybody need be told
    /// who did not ask for one.</summary>
    internal abstract bool MeansNoGpu { get; }
}
