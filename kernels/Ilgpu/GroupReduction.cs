using ILGPU;

namespace Native.Kernels.Ilgpu;

/// <summary>Two numbers to one, no matter in which order.</summary>
internal interface IReduction<T> where T : unmanaged
{
    T Of(T x, T y);
}

/// <summary>x + y.</summary>
internal struct FloatSum : IReduction<float>
{
    public readonly float Of(float x, float y) => x + y;
}

/// <summary>The greater one; NaN where one is.</summary>
internal struct FloatGreatest : IReduction<float>
{
    public readonly float Of(float x, float y) => y > x || DeviceMath.IsNan(y) ? y : x;
}

/// <summary>x + y.</summary>
internal struct LongSum : IReduction<ulong>
{
    public readonly ulong Of(ulong x, ulong y) => x + y;
}

/// <summary>The lesser one.</summary>
internal struct LongLeast : IReduction<ulong>
{
    public readonly ulong Of(ulong x, ulong y) => y < x ? y : x;
}

/// <summary>What a group's threads have, as one number.</summary>
internal static class GroupReduction
{
    /// <summary>The number of all threads, the same in each: by halves, so that it depends on their number alone. All
    /// must come here.</summary>
    /// <param name="x">The thread's own.</param>
    /// <param name="shared">A place for each thread of the group, whose number is a power of two.</param>
    /// <remarks>Who writes waits before. A barrier behind the last read would not do: ILGPU 1.5.3 moves a load past
    /// what follows it in its block (<c>Movement.CanMoveSideEffectValue</c>), barriers too.</remarks>
    public static T Of<T, R>(T x, ArrayView<T> shared)
        where T : unmanaged
        where R : struct, IReduction<T>
    {
        int thread = Group.IdxX;
        Group.Barrier(); // what was there was read
        shared[thread] = x;
        Group.Barrier();
        for (int half = (int)shared.Length / 2; half > 0; half /= 2)
        {
            if (thread < half) shared[thread] = default(R).Of(shared[thread], shared[thread + half]);
            Group.Barrier();
        }
        return shared[0];
    }
}
