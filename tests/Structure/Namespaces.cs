using System.Reflection;
using System.Reflection.Emit;

namespace Native.Tests.Structure;

/// <summary>
/// Which namespaces of an assembly use which, method bodies included, with one pair of types for each arrow.
/// </summary>
internal static class Namespaces
{
    private const BindingFlags Declared =
        BindingFlags.Public | BindingFlags.NonPublic | BindingFlags.Static | BindingFlags.Instance
        | BindingFlags.DeclaredOnly;

    private static readonly Dictionary<ushort, OpCode> OpCodesByValue = typeof(OpCodes)
        .GetFields(BindingFlags.Public | BindingFlags.Static)
        .Select(field => (OpCode)field.GetValue(null)!).ToDictionary(code => (ushort)code.Value);

    /// <summary>
    /// The arrows between an assembly's namespaces: from, to, and the first types found at their ends.
    /// </summary>
    public static Dictionary<(string From, string To), (Type From, Type To)> ArrowsOf(Assembly assembly)
    {
        string root = assembly.GetName().Name!;
        // A program of top-level statements has no namespace: it belongs to the root folder.
        string NamespaceOf(Type type) => type.Namespace ?? root;
        // What the compiler and generators add lies in no folder.
        bool IsOurs(Type type) => type.Assembly == assembly
            && (type.Namespace is { } name ? name == root || name.StartsWith(root + ".", StringComparison.Ordinal)
                : type.Name == "Program");
        Dictionary<(string, string), (Type, Type)> arrows = [];
        foreach (Type type in assembly.GetTypes().Where(IsOurs))
        {
            HashSet<Type> used = [];
            Collect(type, used);
            foreach (Type target in used)
            {
                if (IsOurs(target) && NamespaceOf(target) != NamespaceOf(type))
                    arrows.TryAdd((NamespaceOf(type), NamespaceOf(target)), (type, target));
            }
        }
        return arrows;
    }

    /// <summary>The arrows that are part of a circle: their ends reach each other.</summary>
    public static IEnumerable<(string From, string To)> Circular(IReadOnlyCollection<(string From, string To)> arrows)
    {
        bool Reaches(string from, string to)
        {
            HashSet<string> seen = [from];
            Queue<string> left = new(seen);
            while (left.TryDequeue(out string? at))
            {
                if (at == to) return true;
                foreach ((_, string next) in arrows.Where(arrow => arrow.From == at))
                    if (seen.Add(next)) left.Enqueue(next);
            }
            return false;
        }
        return arrows.Where(arrow => Reaches(arrow.To, arrow.From));
    }

    private static void Collect(Type type, HashSet<Type> used)
    {
        Add(type.BaseType, used);
        foreach (Type implemented in type.GetInterfaces()) Add(implemented, used);
        foreach (CustomAttributeData attribute in type.GetCustomAttributesData()) Add(attribute.AttributeType, used);
        foreach (Type parameter in type.GetGenericArguments())
            foreach (Type constraint in parameter.GetGenericParameterConstraints()) Add(constraint, used);
        foreach (FieldInfo field in type.GetFields(Declared)) Add(field.FieldType, used);
        foreach (MethodBase method in type.GetMembers(Declared).OfType<MethodBase>())
        {
            AddSignature(method, used);
            if (method.GetMethodBody() is not { } body) continue;
            foreach (LocalVariableInfo local in body.LocalVariables) Add(local.LocalType, used);
            foreach (ExceptionHandlingClause clause in body.ExceptionHandlingClauses)
                if (clause.Flags == ExceptionHandlingClauseOptions.Clause) Add(clause.CatchType, used);
            CollectBody(type, method, body.GetILAsByteArray()!, used);
        }
    }

    private static void CollectBody(Type type, MethodBase method, byte[] il, HashSet<Type> used)
    {
        Type[] ofType = type.GetGenericArguments();
        Type[] ofMethod = method.IsGenericMethod ? method.GetGenericArguments() : [];
        for (int i = 0; i < il.Length;)
        {
            ushort value = il[i++];
            if (value == 0xFE) value = (ushort)(value << 8 | il[i++]);
            OpCode code = OpCodesByValue[value];
            switch (code.OperandType)
            {
                case OperandType.InlineField or OperandType.InlineMethod:
                case OperandType.InlineType or OperandType.InlineTok:
                    AddMember(type.Module.ResolveMember(BitConverter.ToInt32(il, i), ofType, ofMethod)!, used);
                    i += 4;
                    break;
                case OperandType.InlineSwitch:
                    i += 4 + 4 * BitConverter.ToInt32(il, i);
                    break;
                default:
                    i += SizeOf(code.OperandType);
                    break;
            }
        }
    }

    private static int SizeOf(OperandType operand) => operand switch
    {
        OperandType.InlineNone => 0,
        OperandType.ShortInlineBrTarget or OperandType.ShortInlineI or OperandType.ShortInlineVar => 1,
        OperandType.InlineVar => 2,
        OperandType.InlineI8 or OperandType.InlineR => 8,
        _ => 4,
    };

    private static void AddMember(MemberInfo member, HashSet<Type> used)
    {
        Add(member as Type ?? member.DeclaringType, used);
        if (member is FieldInfo field) Add(field.FieldType, used);
        if (member is not MethodBase method) return;
        AddSignature(method, used);
        if (method.IsGenericMethod)
            foreach (Type argument in method.GetGenericArguments()) Add(argument, used);
    }

    private static void AddSignature(MethodBase method, HashSet<Type> used)
    {
        if (method is MethodInfo info) Add(info.ReturnType, used);
        foreach (ParameterInfo parameter in method.GetParameters()) Add(parameter.ParameterType, used);
    }

    private static void Add(Type? type, HashSet<Type> used)
    {
        while (type is { HasElementType: true }) type = type.GetElementType();
        if (type is null || type.IsGenericParameter) return;
        if (type.IsFunctionPointer)
        {
            Add(type.GetFunctionPointerReturnType(), used);
            foreach (Type parameter in type.GetFunctionPointerParameterTypes()) Add(parameter, used);
            return;
        }
        if (!used.Add(type.IsGenericType ? type.GetGenericTypeDefinition() : type)) return;
        foreach (Type argument in type.GetGenericArguments()) Add(argument, used);
    }
}
